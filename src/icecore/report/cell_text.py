"""The text of cells, as the terminal, the Markdown file and the page show it."""

from collections.abc import Iterable, Mapping

from icecore.report.cells import CellNumber, MeanWithError, TableCell, rate_text

DIFFERS = "≠"
SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
#: marks of a cell and their meaning
LEGEND = (
    (
        "98.1 ± 0.2",
        "mean and standard error over the seeds of training. All seeds share the test examples and one body, also if "
        "its weights are random. A number without ± is of a single seed",
    ),
    (
        DIFFERS,
        "the number differs from the published one by more than two combined standard errors. Only shown with the "
        "budget and the body of the paper, because others change the numbers anyway",
    ),
    ("≥", "the number is a lower bound: a run was still at its best at its last validation, and may improve further"),
    ("¹", "see the footnote with this number below the table"),
    ("missing", "weights or data are missing; a footnote says how to get them. Empty cells were not run"),
)

#: decimals of our numbers, by unit
DECIMALS: Mapping[str, int] = {"%": 1, "steps": 0}


def mean_text(number: MeanWithError, unit: str) -> str:
    """The mean of our number: percent with one decimal, steps with none."""
    return f"{number.mean:,.{DECIMALS[unit]}f}"


def sem_text(number: MeanWithError, unit: str) -> str:
    """The standard error of our number; empty if there is none."""
    return "" if number.sem is None else f"{number.sem:,.{DECIMALS[unit]}f}"


def number_text(number: MeanWithError, unit: str) -> str:
    """Mean ± standard error."""
    return " ± ".join(filter(None, (mean_text(number, unit), sem_text(number, unit))))


def published_number_text(number: MeanWithError, unit: str) -> str:
    """A published number with its published digits."""
    mean = f"{number.mean:,.0f}" if unit != "%" else f"{number.mean}"
    return mean if number.sem is None else f"{mean} ± {number.sem}"


def marked_number_text(number: CellNumber, unit: str) -> str:
    """One of our numbers with its marks; empty if there is none."""
    if number.ours is None:
        return ""
    return ("≥ " if number.bound else "") + number_text(number.ours, unit) + f" {DIFFERS}" * number.differs


def cell_text(cell: TableCell, unit: str) -> str:
    """Our numbers, or "missing", "diverged" or "not finished"; empty if nothing was run."""
    if cell.state:
        return "" if cell.state == "not run" else cell.state
    texts = [marked_number_text(number, unit) for number in cell.numbers]
    return " / ".join(text or "–" for text in texts) if any(texts) else "–"


def published_text(cell: TableCell, unit: str) -> str:
    """The published numbers; empty if there are none."""
    texts = [published_number_text(n.published, unit) if n.published else "" for n in cell.numbers]
    return " / ".join(text or "–" for text in texts) if any(texts) else ""


def marks_text(marks: Iterable[int]) -> str:
    """Footnote numbers as superscripts."""
    return ",".join(map(str, marks)).translate(SUPERSCRIPTS)


def count_text(counts: tuple[int, int] | None) -> str:
    """A parameter count, or the fewest and the most if columns differ."""
    return "" if counts is None else " to ".join(dict.fromkeys(f"{count:,}" for count in counts))


def origin_text(cell: TableCell) -> str:
    """The learning rates, seeds and runs behind a cell."""
    seeds = ", ".join(str(run.summary.seed) for run in cell.chosen)
    rates = ", ".join(map(rate_text, cell.rates))
    chosen = "" if cell.lr is None else f"learning rate {rate_text(cell.lr)} of {rates}; seeds {seeds}; "
    train = "" if cell.train is None else f"training examples {number_text(cell.train, '%')} %; "
    splits = "".join(f"{name} {number_text(metric, '%')} %; " for name, metric in cell.splits.items())
    return f"{chosen}{train}{splits}runs {', '.join(run.run_id for run in cell.runs)}"
