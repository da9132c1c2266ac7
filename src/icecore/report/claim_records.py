"""The cells that a claim is decided from, with those of their runs that can be compared.

Runs of other versions, data, precisions or settings than the rest are left out, with a note.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from icecore.core.text import pluralize
from icecore.experiments.results import RunRecord
from icecore.paper.claims import Claim, RowPart
from icecore.paper.paper_tables import STUDIES
from icecore.paper.table_structure import Study
from icecore.report.cells import TableCell, build_cell
from icecore.report.consistency import AspectReader, data_text, options_text, tested_text, version_reader
from icecore.report.quantities import QUANTITIES, Quantity
from icecore.report.record_index import Place, RecordIndex
from icecore.report.run_settings import settings_with_effect, value_text

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

#: settings that these aspects cover, or that tell the runs of one sweep apart
_COVERED_SETTINGS = frozenset(
    {"task", "task_options", "precision", "protocol", "steps", "test_examples", "lr", "seed", "body_seed"}
)
#: reads from a run what must agree in all that are compared; empty if the run does not say it, or if it has no effect
_Reader = Callable[[RunRecord], str]


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
    usual = {aspect: _usual(_of_summary(read), cells.values()) for aspect, read in CLAIM_ASPECTS.items()}
    compared: dict[Place, ClaimCell] = {}
    for column in dict.fromkeys(column for _, _, column in cells):
        of_task = {place: cell for place, cell in cells.items() if place[2] == column}
        readers = {name: _of_summary(read) for name, read in {**CLAIM_ASPECTS, **TASK_ASPECTS}.items()}
        readers |= _setting_readers(of_task)
        for place, cell in of_task.items():
            compared[place] = _without_others(cell, readers, of_task.values(), usual, STUDIES[place[0]])
    return compared


def _of_summary(read: AspectReader) -> _Reader:
    return lambda run: read(run.summary)


def _setting_readers(cells: Mapping[Place, TableCell]) -> dict[str, _Reader]:
    """A reader for each setting that none of these rows is about, so that all of their runs must agree in it."""
    own = set(_COVERED_SETTINGS)
    for study, row, column in cells:
        table = STUDIES[study]
        own |= {*table.settings, *table.column_settings.get(column, {}), *table.rows[row].settings}
        # the protocol has another one for bodies that are trained
        own |= {"lr_scale"} if table.rows[row].trains_body else set()
    names = {name for cell in cells.values() for run in cell.runs for name in run.config}
    return {name: functools.partial(_setting_text, name) for name in sorted(names - own)}


def _setting_text(name: str, run: RunRecord) -> str:
    """The value of a setting of a run; empty if the record does not have it, or if it has no effect on the run."""
    settings = settings_with_effect(run.config)
    return value_text(settings[name]) if name in settings else ""


def _usual(read: _Reader, cells: Iterable[TableCell], preferred: str = "") -> str:
    """The value that most cells have; of several, the preferred one, or else that of the newest run."""
    values = [(text, run.date) for cell in cells for text, run in {read(r): r for r in cell.runs}.items() if text]
    counts, newest = Counter(text for text, _ in values), dict(sorted(values))
    return max(counts, key=lambda text: (counts[text], text == preferred, newest[text]), default="")


def _without_others(
    cell: TableCell,
    readers: Mapping[str, _Reader],
    of_task: Iterable[TableCell],
    usual: Mapping[str, str],
    study: Study,
) -> ClaimCell:
    """A cell without the runs that have other values than most on its task, and notes on these.

    readers  read what must agree
    of_task  all cells on the task
    usual    what most of the claim has; a cell that agrees with its task, but not with that, is only marked
    """
    expected = {aspect: _usual(read, of_task, usual.get(aspect, "")) for aspect, read in readers.items()}

    def differences(run: RunRecord) -> list[str]:
        found = ((aspect, read(run), expected[aspect]) for aspect, read in readers.items())
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
