"""The records that a claim is decided from: rows of several tables that are the same, and runs that can be compared.

Runs of other versions, data or precisions than the rest are left out, with a note.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from icecore.core.config import FPT_ROLES
from icecore.core.text import pluralize
from icecore.experiments.results import RunRecord
from icecore.paper.claims import Claim, RowPart
from icecore.paper.paper_tables import STUDIES
from icecore.paper.table_structure import Study
from icecore.report.cells import TableCell, build_cell
from icecore.report.consistency import AspectReader, data_text, options_text, tested_text, version_reader
from icecore.report.quantities import QUANTITIES, Quantity

#: what must agree in all runs of a claim on one task, and should agree in the whole claim
CLAIM_ASPECTS: Mapping[str, AspectReader] = {
    "icecore": version_reader("icecore"),
    "precision": lambda summary: summary.precision,
    "protocol": lambda summary: summary.protocol,
}
#: what must agree in all runs of a claim on one task only
TASK_ASPECTS: Mapping[str, AspectReader] = {
    "data": data_text,
    "task options": lambda summary: options_text(summary) or "the defaults",
    "scored on": tested_text,
    "training examples": lambda summary: f"{summary.steps * summary.batch_size:,}",
}

ALL_ASPECTS: Mapping[str, AspectReader] = {**CLAIM_ASPECTS, **TASK_ASPECTS}

#: study, row and column
Place = tuple[str, str, str]


@dataclass(frozen=True)
class ClaimCell:
    """The runs of one row on one task that are compared.

    notes  on runs that were left out, because they cannot be compared with the others on the task
    marks  how all runs on the task differ from most of the claim, so that the task does not count in its verdict
    """

    cell: TableCell
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def is_left_out(self) -> bool:
        """Whether there were runs, but none of them can be compared."""
        return bool(self.notes) and not self.cell.runs


class RecordIndex:
    """Records by the cell that they are of; equal rows of several studies share theirs."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self._records: dict[tuple[str, str, str], list[RunRecord]] = {}
        #: (budget, body) of all records, in their order
        self.groups: dict[tuple[str, str], None] = {}
        # the newest ones last: they say which configuration counts
        for record in sorted(records, key=lambda record: record.date):
            key = record.key
            if key.study in STUDIES and key.row in STUDIES[key.study].rows:
                identity = row_identity(key.study, key.row, key.column)
                self._records.setdefault((identity, key.budget, key.body), []).append(record)
                self.groups.setdefault((key.budget, key.body))

    def records_of(self, place: Place, budget: str, body: str) -> list[RunRecord]:
        """The records of a cell, each run once, also if they were made for another table with the same row."""
        records = self._records.get((row_identity(*place), budget, body), [])
        by_run: dict[str, RunRecord] = {}
        for record in records:
            name = record.run_id or record.missing
            if record.replaces(by_run.get(name)):
                by_run[name] = record
        return list(by_run.values())


@functools.cache
def row_identity(study: str, row: str, column: str) -> str:
    """A text that is equal for cells of different tables if, and only if, they have the same runs at every budget."""
    table = STUDIES[study]
    settings = {**table.settings, **table.column_settings.get(column, {}), **table.rows[row].settings}
    roles = sorted(settings.pop("train_roles", FPT_ROLES))
    own = (study, row) if not settings else ()
    return json.dumps([column, settings, roles, table.lrs, table.seeds, own], sort_keys=True)


def places_of(claim: Claim) -> list[Place]:
    """Every cell that a claim looks at, once."""
    pairs = [(part, column) for rows in claim.rows for column in rows.columns for part in (rows.first, rows.second)]
    return list(dict.fromkeys((part.study, part.row, column) for part, column in pairs))


def quantity_of(study: Study) -> Quantity:
    """The quantity whose parts a claim about a study reads: both accuracies, unless the study measures attention."""
    return QUANTITIES["attention" if study.quantity == "attention" else "fit"]


def comparable_cells(claim: Claim, index: RecordIndex, budget: str, body: str) -> dict[Place, ClaimCell]:
    """The cells of a claim at one budget and body, without runs that differ from most others on the same task."""
    cells = {
        place: build_cell(index.records_of(place, budget, body), quantity_of(STUDIES[place[0]]), {})
        for place in places_of(claim)
    }
    usual = {aspect: _usual(read, cells.values()) for aspect, read in CLAIM_ASPECTS.items()}
    compared: dict[Place, ClaimCell] = {}
    for place, cell in cells.items():
        of_task = [other for other_place, other in cells.items() if other_place[2] == place[2]]
        expected = {aspect: _usual(read, of_task, usual.get(aspect, "")) for aspect, read in ALL_ASPECTS.items()}
        compared[place] = _without_others(cell, expected, usual, STUDIES[place[0]])
    return compared


def _usual(read: AspectReader, cells: Iterable[TableCell], preferred: str = "") -> str:
    """The value that most cells have; of several, the preferred one, or else that of the newest run."""
    values = [
        (text, run.date) for cell in cells for text, run in {read(r.summary): r for r in cell.runs}.items() if text
    ]
    counts, newest = Counter(text for text, _ in values), dict(sorted(values))
    return max(counts, key=lambda text: (counts[text], text == preferred, newest[text]), default="")


def _without_others(cell: TableCell, expected: Mapping[str, str], usual: Mapping[str, str], study: Study) -> ClaimCell:
    """A cell without the runs that have other values than expected on its task, and notes on these.

    usual  what most of the claim has; a cell that agrees with its task, but not with that, is only marked
    """

    def differences(run: RunRecord) -> list[str]:
        found = ((aspect, read(run.summary), expected[aspect]) for aspect, read in ALL_ASPECTS.items())
        return [f"{aspect} {text}, not {value}" for aspect, text, value in found if text and text != value]

    others = [run for run in cell.runs if differences(run)]
    marks = tuple(
        f"{name} {expected[name]}, most of this claim {value}"
        for name, value in usual.items()
        if expected[name] and expected[name] != value
    )
    if not others:
        return ClaimCell(cell, (), marks)
    reasons = "; ".join(sorted({text for run in others for text in differences(run)}))
    kept = [run for run in cell.runs if not differences(run)]
    note = f"Left out: {pluralize(len(others), 'run')} that cannot be compared with the rest ({reasons})."
    return ClaimCell(build_cell(kept, quantity_of(study), {}), (note,), marks)


def published_value(part: RowPart, column: str) -> float | None:
    """The published number of a row, without its error; None if there is none."""
    row = STUDIES[part.study].published.get(part.row, {})
    value = row.get(column, row.get(part.part))
    return float(value[0] if isinstance(value, Sequence) else value) if value is not None else None
