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
from icecore.report.cells import TableCell, build_cell, is_behind
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
    records = {place: index.records_of(place, budget, body) for place in places_of(claim)}
    runs = {place: [record for record in found if not record.missing] for place, found in records.items()}
    usual = {aspect: _usual(_of_summary(read), runs.values()) for aspect, read in CLAIM_ASPECTS.items()}
    compared: dict[Place, ClaimCell] = {}
    for column in dict.fromkeys(column for _, _, column in runs):
        of_task = {place: found for place, found in runs.items() if place[2] == column}
        readers = {name: _of_summary(read) for name, read in {**CLAIM_ASPECTS, **TASK_ASPECTS}.items()}
        readers |= _setting_readers(of_task)
        expected = {name: _usual(read, of_task.values(), usual.get(name, "")) for name, read in readers.items()}
        marks = tuple(
            f"{name} {expected[name]}, most of this claim {value}"
            for name, value in usual.items()
            if expected[name] and expected[name] != value
        )
        for place in of_task:
            kept, note = _without_others(records[place], readers, expected)
            cell = build_cell(kept, quantity_of(STUDIES[place[0]]), {})
            compared[place] = ClaimCell(cell, (note,) if note else (), marks)
    return compared


def _of_summary(read: AspectReader) -> _Reader:
    return lambda run: read(run.summary)


def _setting_readers(runs: Mapping[Place, Sequence[RunRecord]]) -> dict[str, _Reader]:
    """A reader for each setting that none of these rows is about, so that all of their runs must agree in it."""
    own = set(_COVERED_SETTINGS)
    for study, row, column in runs:
        table = STUDIES[study]
        own |= {*table.settings, *table.column_settings.get(column, {}), *table.rows[row].settings}
        # the protocol has another one for bodies that are trained
        own |= {"lr_scale"} if table.rows[row].trains_body else set()
    settings = {id(run): settings_with_effect(run.config) for found in runs.values() for run in found}

    def read(name: str, run: RunRecord) -> str:
        values = settings[id(run)]
        return value_text(values[name]) if name in values else ""

    names = {name for values in settings.values() for name in values}
    return {name: functools.partial(read, name) for name in sorted(names - own)}


def _usual(read: _Reader, cells: Iterable[Sequence[RunRecord]], preferred: str = "") -> str:
    """The value that most cells have; of several, the preferred one, or else that of the newest run."""
    values = [(text, run.date) for runs in cells for text, run in {read(r): r for r in runs}.items() if text]
    counts, newest = Counter(text for text, _ in values), dict(sorted(values))
    return max(counts, key=lambda text: (counts[text], text == preferred, newest[text]), default="")


def _without_others(
    records: Sequence[RunRecord], readers: Mapping[str, _Reader], expected: Mapping[str, str]
) -> tuple[list[RunRecord], str]:
    """The records of a cell without runs that have other values than expected, and a note on these, empty if none.

    Runs that a race stopped were not scored and say less. They go as well if no other run is kept.
    """

    def differences(run: RunRecord) -> list[str]:
        found = ((name, read(run), expected[name]) for name, read in readers.items())
        return [f"{name} {text}, not {value}" for name, text, value in found if text and text != value]

    found = [(record, [] if record.missing else differences(record)) for record in records]
    kept = [record for record, texts in found if not texts]
    if len(kept) == len(records):
        return kept, ""
    others = len(records) - len(kept)
    if all(record.missing or is_behind(record) for record in kept):
        kept = [record for record in kept if record.missing]
    reasons = "; ".join(sorted({text for _, texts in found for text in texts}))
    return kept, f"Left out: {pluralize(others, 'run')} that cannot be compared with the rest ({reasons})."


def published_value(part: RowPart, column: str) -> float | None:
    """The published number of a row, without its error; None if there is none."""
    row = STUDIES[part.study].published.get(part.row, {})
    value = row.get(column, row.get(part.part))
    return float(value[0] if isinstance(value, Sequence) else value) if value is not None else None
