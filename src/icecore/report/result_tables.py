"""Result tables: records as rows and columns of cells, one table for each study, budget and body.

A study of the paper has all its rows and columns, even if nothing was trained. Other tables have the rows and
columns that their records name.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from icecore.core.protocols import PROTOCOLS
from icecore.experiments.results import CellKey, RunRecord
from icecore.paper.budgets import BUDGETS, budget_of_label, names_protocol
from icecore.paper.paper_tables import STUDIES
from icecore.paper.table_structure import Study
from icecore.paper.trivial_answers import TRIVIAL_ANSWERS, TrivialAnswer
from icecore.report.cells import MeanWithError, TableCell, build_cell, rate_text
from icecore.report.consistency import (
    CellPosition,
    data_text,
    note_differences,
    options_text,
    tested_text,
    version_reader,
)
from icecore.report.quantities import QUANTITIES, Quantity
from icecore.report.record_index import RecordIndex
from icecore.report.story import tell_story
from icecore.training.run_summary import RunSummary

#: the budget of the paper
FULL = "full"
#: characters of a table's name in the names of its files
MAX_SLUG = 80


@dataclass(frozen=True)
class TableColumn:
    """A column: what makes its task smaller than usual (`remarks`), and what it was trained on (`facts`).

    trivial  an answer that needs no training, if one is known and the column has accuracies
    """

    name: str
    remarks: tuple[str, ...] = ()
    facts: str = ""
    trivial: TrivialAnswer | None = None


@dataclass(frozen=True)
class TableRow:
    """A row. Parameter counts are (fewest, most) over its columns, None if nothing was trained."""

    key: str
    label: str
    cells: Mapping[str, TableCell]
    trained: tuple[int, int] | None = None
    frozen: tuple[int, int] | None = None

    @property
    def is_blank(self) -> bool:
        """Whether it has neither runs, nor published numbers, nor a reason why it has none."""
        return not any(
            cell.runs or cell.state == "missing" or any(number.published for number in cell.numbers)
            for cell in self.cells.values()
        )


@dataclass(frozen=True)
class ResultTable:
    """A table of results.

    slug      a name for files and links
    name      "Table 2", "Rebuttal" or "User grid"
    question  what the table is meant to answer
    facts     (name, text) of budget, body, hardware and so on
    warnings  aspects that the table mixes
    """

    slug: str
    name: str
    title: str
    question: str
    quantity: Quantity
    budget: str
    body: str
    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()

    @property
    def story(self) -> str:
        """What the table shows, in a few sentences; empty if there is nothing to compare."""
        rows = [(row.label, row.cells) for row in self.rows]
        return tell_story(self.quantity.caption, rows, [column.name for column in self.columns], self.trivial)

    @property
    def trivial(self) -> dict[str, float]:
        """What an answer without training reaches in %, by column."""
        return {c.name: 100 * c.trivial.accuracy for c in self.columns if c.trivial is not None}

    @property
    def notes(self) -> list[str]:
        """The footnotes in the order of their cells; equal notes of several cells are one footnote."""
        return list(dict.fromkeys(note for row in self.rows for cell in row.cells.values() for note in cell.footnotes))

    def marks(self, cell: TableCell) -> list[int]:
        """Numbers of a cell's footnotes, from 1."""
        notes = self.notes
        return sorted(notes.index(note) + 1 for note in cell.footnotes)

    @property
    def cells(self) -> list[TableCell]:
        """All cells, row by row."""
        return [row.cells[column.name] for row in self.rows for column in self.columns]


def build_tables(records: Sequence[RunRecord], studies: Mapping[str, Study] = STUDIES) -> list[ResultTable]:
    """The tables of the records: those of `studies` in their order, then others in the order of their records.

    Of one study, results of the default protocol come first.
    """
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.key.study, record.key.budget, record.key.body), []).append(record)
    order = {name: position for position, name in enumerate(studies)}
    tables: list[ResultTable] = []
    index = RecordIndex(records)

    def place(group: tuple[str, str, str]) -> tuple[int, bool]:
        study, budget, _ = group
        return order.get(study, len(order)), names_protocol(budget)  # other protocols than the default come last

    for study, budget, body in sorted(groups, key=place):
        slug = _unique_slug("-".join(filter(None, (study or "runs", budget, body))), {table.slug for table in tables})
        tables.append(_build_table(slug, groups[study, budget, body], studies.get(study), index))
    return tables


def _unique_slug(text: str, taken: Iterable[str]) -> str:
    # file names begin with it
    base = slug = re.sub(r"[^a-z0-9]+", "-", text.lower())[:MAX_SLUG].strip("-") or "table"
    number = 2
    while slug in taken:
        slug, number = f"{base}-{number}", number + 1
    return slug


def _build_table(slug: str, records: Sequence[RunRecord], study: Study | None, index: RecordIndex) -> ResultTable:
    key = records[0].key
    quantity = QUANTITIES[study.quantity if study else "test"]
    by_position = _by_position(records)
    if study is not None:
        # a row that other tables have too has the same number in all of them
        for row, column in itertools.product(study.rows, study.columns):
            if shared := index.records_of((study.name, row, column), key.budget, key.body):
                by_position[row, column] = shared
    labels = _row_labels(study, by_position)
    columns = list(dict.fromkeys([*(study.columns if study else ()), *(column for _, column in by_position)]))
    is_comparable = _is_comparable(key)
    cells = {
        (row, column): build_cell(
            by_position.get((row, column), ()), quantity, _published(study, quantity, row, column), is_comparable
        )
        for row in labels
        for column in columns
    }
    cells, warnings = note_differences(cells)
    return ResultTable(
        slug,
        re.sub(r"(?<=table)(?=\d)", " ", study.name).capitalize() if study else "User grid",
        study.title if study else key.study or "Runs that belong to no table",
        study.question if study else "",
        quantity,
        key.budget,
        key.body,
        tuple(
            _build_column(name, [r for (_, c), cell in cells.items() if c == name for r in cell.runs], quantity)
            for name in columns
        ),
        tuple(_build_row(row, label, {c: cells[row, c] for c in columns}) for row, label in labels.items()),
        tuple(_table_facts(key, [run for cell in cells.values() for run in cell.runs], study)),
        tuple(warnings),
    )


def _is_comparable(key: CellKey) -> bool:
    """Whether the numbers of a table were made with the budget and the body of the paper."""
    return budget_of_label(key.budget) == FULL and key.body == BUDGETS[FULL].bodies["body"]


def _by_position(records: Sequence[RunRecord]) -> dict[CellPosition, list[RunRecord]]:
    """The records by row and column. A run without a cell gets a row for its body and a column for its task."""
    by_position: dict[CellPosition, list[RunRecord]] = {}
    for record in records:
        row = record.key.row or f"{record.summary.backbone}, {record.summary.weights}"
        by_position.setdefault((row, record.key.column or record.summary.task), []).append(record)
    return by_position


def _row_labels(study: Study | None, by_position: Mapping[CellPosition, Sequence[RunRecord]]) -> dict[str, str]:
    """Labels by row: first the rows of the study, then rows that only records name."""
    labels = {key: row.label for key, row in study.rows.items()} if study else {}
    labels |= {row: row for row, _ in by_position if row not in labels}
    return {row: label + _substitute_body(study, row, by_position) for row, label in labels.items()}


def _substitute_body(study: Study | None, row: str, by_position: Mapping[CellPosition, Sequence[RunRecord]]) -> str:
    """The body that replaces one of the paper's in a row, if it is not the body of the whole table."""
    placeholder = study.rows[row].settings.get("backbone", "") if study and row in study.rows else ""
    if not placeholder.startswith("{") or placeholder == "{body}":
        return ""
    bodies = _distinct(r.summary.backbone for (key, _), runs in by_position.items() if key == row for r in runs)
    return f" ({', '.join(bodies)})" if bodies else ""


def _published(study: Study | None, quantity: Quantity, row: str, column: str) -> dict[str, MeanWithError]:
    """Published numbers by part. If a cell has several parts, the row's numbers are named by part, not by column."""
    numbers = study.published.get(row, {}) if study else {}
    keys = {part: column if len(quantity.parts) == 1 else part for part in quantity.parts}
    values = {part: numbers[key] for part, key in keys.items() if key in numbers}
    return {part: MeanWithError(*v) if isinstance(v, list) else MeanWithError(v) for part, v in values.items()}


def _build_row(key: str, label: str, cells: Mapping[str, TableCell]) -> TableRow:
    chosen = [run.summary for cell in cells.values() for run in cell.chosen if run.summary.trainable_parameters]
    if not chosen:
        return TableRow(key, label, cells)
    trained, frozen = zip(*((s.trainable_parameters, s.frozen_parameters) for s in chosen), strict=True)
    return TableRow(key, label, cells, (min(trained), max(trained)), (min(frozen), max(frozen)))


def _build_column(name: str, runs: Sequence[RunRecord], quantity: Quantity) -> TableColumn:
    summaries = [run.summary for run in runs]
    # the column's name may already contain the options
    options = [text for text in _distinct(map(options_text, summaries)) if text not in name]
    tested = _distinct(map(tested_text, summaries))
    steps = [summary.steps for summary in summaries if summary.steps]
    batch_sizes = [summary.batch_size for summary in summaries if summary.batch_size]
    facts = [
        f"{_range_text(steps)} steps of {_range_text(batch_sizes)} examples" if steps else "",
        *options,
        " or ".join(tested),
        " or ".join(_distinct(map(data_text, summaries))),
    ]
    metrics = [metric for metric in _distinct(s.metric_name for s in summaries) if metric != "accuracy"]
    remarks = (*metrics, *options, *(text for text in tested if " of " in text))
    trivial = TRIVIAL_ANSWERS.get(name.split()[0]) if quantity is QUANTITIES["test"] and name.split() else None
    return TableColumn(name, remarks, "; ".join(filter(None, facts)), trivial)


def _table_facts(key: CellKey, runs: Sequence[RunRecord], study: Study | None) -> list[tuple[str, str]]:
    """What all numbers of a table have in common, as (name, text)."""
    summaries = [run.summary for run in runs]
    budget = BUDGETS.get(budget_of_label(key.budget))
    protocols = _distinct(summary.protocol for summary in summaries)
    versions = [
        f"{name} {' or '.join(texts)}"
        for name in ("icecore", "torch", "transformers")
        if (texts := _distinct(map(version_reader(name), summaries)))
    ]
    dates = sorted(_distinct(run.date for run in runs))
    facts = {
        "Budget": f"{key.budget}: {budget.summary}" if budget else key.budget,
        "Body": key.body,
        "Protocol": "; ".join(f"{p}: {PROTOCOLS[p].summary}" if p in PROTOCOLS else p for p in protocols),
        "Hardware": "; ".join(_distinct(summary.device for summary in summaries)),
        "Precision": ", ".join(_distinct(summary.precision for summary in summaries)),
        "Software": ", ".join(versions),
        "Date": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
        "Runs": _runs_text({run.run_id for run in runs}, summaries),
        "Published": study.source if study else "",
    }
    return [(name, text) for name, text in facts.items() if text]


def _runs_text(ids: Iterable[str], summaries: Sequence[RunSummary]) -> str:
    if not summaries:
        return "none yet"
    rates = ", ".join(map(rate_text, sorted({summary.lr for summary in summaries})))
    seeds = ", ".join(sorted({str(summary.seed) for summary in summaries}))
    return f"{len(set(ids))}; learning rates {rates}; seeds {seeds}"


def _distinct(values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _range_text(values: Sequence[int]) -> str:
    low, high = (f"{end(values):,}" for end in (min, max)) if values else ("?", "?")
    return low if low == high else f"{low} to {high}"
