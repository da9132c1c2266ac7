"""Tables as text: what a cell says, and all of them as one Markdown file.

The same words serve the terminal, Markdown and the page; only the escaping is each one's own.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from icecore.report.cells import Estimate, TableCell, Value, rate_text
from icecore.report.tables import ResultTable, TableRow

#: (file, caption) of each picture of a table, by its slug
Plots = Mapping[str, Sequence[tuple[str, str]]]

DIFFERS = "≠"
SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
#: how a cell is read, in the order of the marks
LEGEND = (
    (
        "98.1 ± 0.2",
        "mean and standard error over seeds of what is trained; all of them share one body (one draw of a random one) "
        "and the test examples. Without ± it is a single seed",
    ),
    (DIFFERS, "differs from the published number by more than two combined standard errors"),
    ("≥", "at least: some run was still at its best at its last validation, so more steps may change it"),
    ("¹", "see the note of that number under the table"),
    ("missing", "weights or data are not here, its note says what to get; an empty place was not run"),
)


DIGITS: Mapping[str, int] = {"%": 1, "steps": 0}


def mean_text(estimate: Estimate, unit: str) -> str:
    """A mean of ours: percent with one decimal, steps with none."""
    return f"{estimate.mean:,.{DIGITS[unit]}f}"


def sem_text(estimate: Estimate, unit: str) -> str:
    """A standard error of ours, empty where there is none."""
    return "" if estimate.sem is None else f"{estimate.sem:,.{DIGITS[unit]}f}"


def number(estimate: Estimate, unit: str) -> str:
    """Mean ± standard error."""
    return " ± ".join(filter(None, (mean_text(estimate, unit), sem_text(estimate, unit))))


def published_number(estimate: Estimate, unit: str) -> str:
    """A published number with the digits it was published with."""
    mean = f"{estimate.mean:,.0f}" if unit != "%" else f"{estimate.mean}"
    return mean if estimate.sem is None else f"{mean} ± {estimate.sem}"


def value_text(value: Value, unit: str) -> str:
    """One number of a cell with its marks; empty where it does not exist."""
    if value.ours is None:
        return ""
    return ("≥ " if value.bound else "") + number(value.ours, unit) + f" {DIFFERS}" * value.differs


def cell_text(cell: TableCell, unit: str) -> str:
    """Ours as text: the numbers, "missing", "diverged", or nothing for what was not run."""
    if cell.state:
        return "" if cell.state == "not run" else cell.state
    texts = [value_text(value, unit) for value in cell.values]
    return " / ".join(text or "–" for text in texts) if any(texts) else "–"


def published_text(cell: TableCell, unit: str) -> str:
    """The published numbers as text; empty where there are none."""
    texts = [published_number(value.published, unit) if value.published else "" for value in cell.values]
    return " / ".join(text or "–" for text in texts) if any(texts) else ""


def marks_text(marks: Iterable[int]) -> str:
    """Footnote numbers as superscripts."""
    return ",".join(map(str, marks)).translate(SUPERSCRIPTS)


def count_text(span: tuple[int, int] | None) -> str:
    """A parameter count, or the fewest and the most where columns differ."""
    return "" if span is None else " to ".join(dict.fromkeys(f"{count:,}" for count in span))


def origin(cell: TableCell) -> str:
    """Learning rate, seeds and runs behind a cell."""
    seeds = ", ".join(str(run.summary["seed"]) for run in cell.chosen)
    rates = ", ".join(map(rate_text, cell.rates))
    chosen = "" if cell.lr is None else f"learning rate {rate_text(cell.lr)} of {rates}; seeds {seeds}; "
    train = "" if cell.train is None else f"training examples {number(cell.train, '%')} %; "
    splits = "".join(f"{name} {number(value, '%')} %; " for name, value in cell.splits.items())
    return f"{chosen}{train}{splits}runs {', '.join(run.run_id for run in cell.runs)}"


def render_markdown(tables: Sequence[ResultTable], faults: Sequence[str], plots: Plots) -> str:
    """All tables as Markdown."""
    parts = ["# icecore: results", "How to read a table:\n\n" + _list(f"{mark}: {words}" for mark, words in LEGEND)]
    if faults:
        parts.append("**Not read:**\n\n" + _list(faults))
    parts += [_markdown(table, plots.get(table.slug, ())) for table in tables]
    return "\n\n".join(parts) + "\n"


def _markdown(table: ResultTable, plots: Sequence[tuple[str, str]]) -> str:
    made_with = f" ({', '.join(filter(None, (table.budget, table.body)))})" if table.budget or table.body else ""
    head = [_escape(f"## {table.name}: {table.title}{made_with}")]
    about = [f"{name}: {text}" for name, text in table.facts]
    parts = [*head, *([_escape(table.shows)] if table.shows else []), _list(about)]
    parts += ["**Mixed:**\n\n" + _list(table.warnings)] if table.warnings else []
    parts.append(_grid(table))
    parts += ["\n".join(f"{n}. {_escape(note)}" for n, note in enumerate(table.notes, 1))] if table.notes else []
    parts += [f"![{_escape(caption)}]({file})" for file, caption in plots]
    columns = [f"{column.name}: {column.facts}" for column in table.columns if column.facts]
    parts += ["Trained and tested on:\n\n" + _list(columns)] if columns else []
    made = [
        f"- {_escape(f'{row.label}, {column.name}')}: {', '.join(map(_code, cell.commands))}: {_escape(origin(cell))}"
        for row in table.rows
        for column in table.columns
        if (cell := row.cells[column.name]).runs
    ]
    parts += ["Made by:\n\n" + "\n".join(made)] if made else []
    return "\n\n".join(parts)


def _grid(table: ResultTable) -> str:
    """The table itself: ours, the published number beneath, parameter counts."""
    heads = ["<br>".join([f"**{_escape(column.name)}**", *map(_escape, column.remarks)]) for column in table.columns]
    lines = [[_escape(table.measure.caption), "trained", "frozen", *heads]]
    lines += [_row(table, row) for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in (lines[0], rule)]
    padded += [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _row(table: ResultTable, row: TableRow) -> list[str]:
    unit, cells = table.measure.unit, []
    for column in table.columns:
        cell = row.cells[column.name]
        ours = cell_text(cell, unit)
        published = published_text(cell, unit)
        lines = [f"**{ours}**{marks_text(table.marks(cell))}" if ours else ""]
        cells.append("<br>".join(filter(None, [*lines, f"published {published}" if published else ""])))
    return [_escape(row.label), count_text(row.trained), count_text(row.frozen), *cells]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_escape(line)}" for line in lines)


def _escape(text: str) -> str:
    """Text that means nothing to Markdown and stays on its line, in a table too."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _code(command: str) -> str:
    """A command as code; a bar would end a table's cell, more backticks end the code."""
    fence = "``" if "`" in command else "`"
    return f"{fence}{' '.join(command.split())}{fence}"
