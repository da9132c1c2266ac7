"""The tables of a report as one Markdown file."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from icecore.report.cell_text import LEGEND, cell_text, count_text, marks_text, number_text, origin_text, published_text
from icecore.report.leaderboard import Board, Entry
from icecore.report.result_tables import ResultTable, TableRow

#: (file, caption) of each picture of a table, by its slug
PlotLinks = Mapping[str, Sequence[tuple[str, str]]]


def render_markdown(
    tables: Sequence[ResultTable], faults: Sequence[str], plots: PlotLinks, boards: Sequence[Board] = ()
) -> str:
    """All tables and the leaderboard as Markdown. `faults` are messages about results that could not be read."""
    parts = ["# icecore: results"]
    stories = [f"{_title(table)}: {table.story}" for table in tables if table.story]
    parts += ["In short:\n\n" + _list(stories)] if stories else []
    parts.append("How to read a table:\n\n" + _list(f"{mark}: {meaning}" for mark, meaning in LEGEND))
    if faults:
        parts.append("**Results that could not be read:**\n\n" + _list(faults))
    parts += [_table_markdown(table, plots.get(table.slug, ())) for table in tables]
    parts += ["## Leaderboard", *map(_board_markdown, boards)] if boards else []
    return "\n\n".join(parts) + "\n"


def _title(table: ResultTable, title: str = "") -> str:
    """Name, title, budget and body of a table."""
    budget = ", ".join(filter(None, (table.budget, table.body)))
    return ": ".join(filter(None, (table.name, title))) + (f" ({budget})" if budget else "")


def _table_markdown(table: ResultTable, plots: Sequence[tuple[str, str]]) -> str:
    parts = [_escape(f"## {_title(table, table.title)}")]
    parts += [_escape(table.question)] if table.question else []
    parts += [_escape(table.story)] if table.story else []
    parts.append(_list(f"{name}: {text}" for name, text in table.facts))
    parts += ["**These runs differ:**\n\n" + _list(table.warnings)] if table.warnings else []
    parts.append(_grid(table))
    parts += ["\n".join(f"{n}. {_escape(note)}" for n, note in enumerate(table.notes, 1))] if table.notes else []
    parts += [f"![{_escape(caption)}]({file})" for file, caption in plots]
    columns = [f"{column.name}: {column.facts}" for column in table.columns if column.facts]
    parts += ["Trained and tested on:\n\n" + _list(columns)] if columns else []
    commands = [
        f"- {_escape(f'{row.label}, {column.name}')}: {', '.join(map(_code, cell.commands))}: "
        f"{_escape(origin_text(cell))}"
        for row in table.rows
        for column in table.columns
        if (cell := row.cells[column.name]).runs
    ]
    parts += ["Commands and runs:\n\n" + "\n".join(commands)] if commands else []
    return "\n\n".join(parts)


def _grid(table: ResultTable) -> str:
    """The table itself: parameter counts, and our numbers above the published ones."""
    heads = ["<br>".join([f"**{_escape(column.name)}**", *map(_escape, column.remarks)]) for column in table.columns]
    lines = [[_escape(table.quantity.caption), "trained", "frozen", *heads]]
    lines += [_row_cells(table, row) for row in table.rows]
    lines += [_trivial_cells(table)] if table.trivial else []
    return _table_lines(lines)


def _table_lines(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of escaped texts; the first line is its header, and all columns but the first are numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in (lines[0], rule)]
    padded += [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _trivial_cells(table: ResultTable) -> list[str]:
    """A last row: what an answer without training reaches."""
    answers = [column.trivial for column in table.columns]
    texts = ("" if each is None else f"{100 * each.accuracy:.1f}<br>{_escape(each.how)}" for each in answers)
    return ["an answer without training", "", "", *texts]


def _row_cells(table: ResultTable, row: TableRow) -> list[str]:
    unit, cells = table.quantity.unit, []
    for column in table.columns:
        cell = row.cells[column.name]
        ours = cell_text(cell, unit)
        published = published_text(cell, unit)
        lines = [f"**{ours}**{marks_text(table.marks(cell))}" if ours else ""]
        cells.append("<br>".join(filter(None, [*lines, f"published {published}" if published else ""])))
    return [_escape(row.label), count_text(row.trained), count_text(row.frozen), *cells]


def _board_markdown(board: Board) -> str:
    """A board as a table below its title."""
    head = ["body", "rank", f"test {board.metric_name}, %", "examples seen", "trained parameters", "budget, protocol"]
    lines = [[*map(_escape, head), "scored on", "made by"], *map(_entry_cells, board.entries)]
    title = ", ".join(filter(None, (board.task, board.variant)))
    return f"{_escape(f'### {title}')}\n\n{_table_lines(lines)}"


def _entry_cells(entry: Entry) -> list[str]:
    body = ", ".join(filter(None, (entry.body, entry.trained)))
    numbers = [number_text(entry.metric, "%"), f"{entry.examples:,}", f"{entry.parameters:,}"]
    texts = [body, str(entry.rank), *numbers, f"{entry.budget}, {entry.protocol}", entry.tested, entry.maker]
    return [*map(_escape, texts)]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_escape(line)}" for line in lines)


def _escape(text: str) -> str:
    """Text without Markdown or HTML syntax and without line breaks."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _code(command: str) -> str:
    """A command as inline code, between more backticks than it contains itself."""
    text = " ".join(command.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " * (len(fence) > 1)  # a backtick at an end must not join the fence
    return f"{fence}{space}{text}{space}{fence}"
