"""The answer in one figure: what a frozen body is worth by what it was pretrained on, beside the published numbers.

It is drawn from the most complete table of what the body was pretrained on (Table 2), and is empty without one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icecore.paper.budgets import SMOKE, budget_of_label
from icecore.report.cells import MeanWithError, TableCell
from icecore.report.result_tables import ResultTable, TableColumn

#: the table that gives the answer
ANSWER_TABLE = "Table 2"
#: label and kind of the rows that the figure has, in their order. The rows of a kind share a colour
ANSWER_ROWS: Mapping[str, tuple[str, str]] = {
    "pretrained": ("language", "language"),
    "vision": ("images", "other"),
    "antibodies": ("antibodies", "other"),
    "bit-memory": ("bit memory", "other"),
    "dyck": ("brackets", "other"),
    "nca": ("automata", "other"),
    "statistics": ("statistics", "statistics"),
    "random": ("random", "random"),
    "none": ("no body", "none"),
}
#: ends of a panel's scale in %
SCALE_ENDS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100)


@dataclass(frozen=True)
class AnswerBar:
    """One body on one task: our number and the published one in %, None where there is none."""

    label: str
    kind: str
    ours: MeanWithError | None
    published: MeanWithError | None


@dataclass(frozen=True)
class AnswerPanel:
    """One task.

    options  in which the task differs from the usual one
    end      right end of the scale in %; it begins at 0
    trivial  what an answer without training reaches in %
    """

    task: str
    options: str
    end: float
    trivial: float | None
    bars: tuple[AnswerBar, ...]

    def place(self, value: float) -> float:
        """Where a number is, in % of the width."""
        return round(100 * min(max(value, 0.0), self.end) / self.end, 2)


@dataclass(frozen=True)
class Answer:
    """The figure, the table that it shows, and the tasks of the table that it lacks because they were not run."""

    table: ResultTable
    panels: tuple[AnswerPanel, ...]
    lacking: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether ours were made with the budget and the body of the published numbers."""
        return all(number.is_comparable for cell in self.table.cells if cell.runs for number in cell.numbers)


def find_answer(tables: Sequence[ResultTable]) -> Answer | None:
    """The figure of the table that can say most; None if no table has a number for it."""
    candidates = [table for table in tables if table.name == ANSWER_TABLE and _count(table)]
    if not candidates:
        return None
    table = max(candidates, key=lambda each: (budget_of_label(each.budget) != SMOKE, _count(each)))
    rows = {row.key: row.cells for row in table.rows if row.key in ANSWER_ROWS and any(map(_ours, row.cells.values()))}
    columns = [column for column in table.columns if any(_ours(cells[column.name]) for cells in rows.values())]
    panels = tuple(_panel(column, rows) for column in columns)
    shown = {column.name for column in columns}
    lacking = tuple(column.name for column in table.columns if column.name not in shown)
    return Answer(table, panels, lacking)


def _ours(cell: TableCell) -> MeanWithError | None:
    return cell.numbers[0].ours if cell.numbers and not cell.state else None


def _count(table: ResultTable) -> int:
    """How many numbers of ours the figure would have."""
    return sum(_ours(cell) is not None for row in table.rows if row.key in ANSWER_ROWS for cell in row.cells.values())


def _panel(column: TableColumn, rows: Mapping[str, Mapping[str, TableCell]]) -> AnswerPanel:
    bars = tuple(
        AnswerBar(*ANSWER_ROWS[key], _ours(rows[key][column.name]), rows[key][column.name].numbers[0].published)
        for key in ANSWER_ROWS
        if key in rows
    )
    trivial = None if column.trivial is None else 100 * column.trivial.accuracy
    values = [number.mean + (number.sem or 0.0) for bar in bars for number in (bar.ours, bar.published) if number]
    largest = max([*values, trivial or 0.0])
    end = next((end for end in SCALE_ENDS if end >= min(largest, 100)), SCALE_ENDS[-1])
    options = ", ".join(remark for remark in column.remarks if "=" in remark)
    return AnswerPanel(column.name, options, end, trivial, bars)
