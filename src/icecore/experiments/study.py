"""Studies: the cells of a table as sweeps. Each cell is trained and then appended to the results file.

Runs that are finished, in the results or as a run folder, are not trained again, and cells that another process
is training come last. A cell without its weights or data is recorded with the reason, and the others are trained.
"""

import datetime
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icecore.backbones import build_body_of
from icecore.core.config import RunConfig
from icecore.core.errors import BusyError, ConfigError, DataError, UserError, WeightsError
from icecore.experiments import estimate, sweep
from icecore.experiments.executor import Executor, LocalExecutor
from icecore.experiments.results import CellKey, RunRecord, append_records, read_records
from icecore.model.fpt import FPT
from icecore.model.loading import write_body
from icecore.model.program import Program
from icecore.tasks.task import Task
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import BEHIND, RunSummary

#: measures a trained model on its task; may write files below the results folder. (model, task, folder, run id)
Analysis = Callable[[FPT, Task, Path, str], Mapping[str, Any]]


@dataclass(frozen=True)
class CellPlan:
    """How a cell of a table is produced: its key, its sweep, and the command that trains this cell alone.

    pretraining  the run that trains the body whose weights file the sweep's configuration names
    analysis     measures each run at the chosen learning rate; its record keeps the numbers in `extra`
    """

    key: CellKey
    sweep: sweep.Sweep
    command: str
    pretraining: RunConfig | None = None
    analysis: Analysis | None = None

    @property
    def title(self) -> str:
        """What messages call the cell."""
        return f"{self.key.row}, {self.key.column}"


def run_study(
    cells: Sequence[CellPlan],
    file: Path,
    context: ExecutionContext,
    log: Callable[[str], object],
    executor: Executor | None = None,
) -> list[RunRecord]:
    """Train what is missing, and append each cell to the results `file` when it is complete. Returns all records.

    context.out  parent of the run folders
    log          is called with a message for each cell that cannot be trained
    executor     trains the runs (None: this process)
    """
    return _StudyRun(cells, file, context, log, executor or LocalExecutor(context)).run()


class _StudyRun:
    """One call of `run_study`: which runs each cell waits for, and what is known of all runs.

    Cells are named by their number in `cells`.
    """

    def __init__(
        self,
        cells: Sequence[CellPlan],
        file: Path,
        context: ExecutionContext,
        log: Callable[[str], object],
        executor: Executor,
    ) -> None:
        self.cells, self.file, self.context, self.log, self.executor = cells, file, context, log, executor
        self.records = read_existing(file.parent, log) if context.resume else []
        #: summaries of finished runs, by run id
        self.summaries = _summaries(self.records)
        #: ids of runs that the executor has, and of those that it has trained
        self.submitted: set[str] = set()
        self.trained: set[str] = set()
        #: ids of the runs that a cell waits for
        self.pending: dict[int, set[str]] = {}
        self.unavailable_bodies: dict[tuple[Any, ...], WeightsError] = {}
        self.records_of_cell: dict[int, list[RunRecord]] = {}

    def run(self) -> list[RunRecord]:
        """Process all cells. Returns their records in the order of the cells."""
        queue, busy, wait = deque(range(len(self.cells))), list[int](), False
        while queue or busy or self.submitted:
            if not queue and not self.submitted:  # only cells that other processes are training are left
                queue, busy, wait = deque(busy), [], True
            while queue and self.executor.has_capacity:
                self._advance(queue.popleft(), wait)
            if self.submitted:
                busy += self._take_result(wait)
        return [record for number in range(len(self.cells)) for record in self.records_of_cell[number]]

    def _take_result(self, wait: bool) -> list[int]:
        """Wait for a result and advance the cells that need it. Returns cells that another process is training."""
        configs, outcome = self.executor.next_result()
        ids = {config.run_id for config in configs}
        self.submitted -= ids
        waiting = [number for number, pending in self.pending.items() if pending & ids]
        if isinstance(outcome, BusyError):
            for number in waiting:
                del self.pending[number]
            return waiting
        if isinstance(outcome, UserError):
            for number in waiting:
                del self.pending[number]
                self._record_missing(number, outcome)
            return []
        self.summaries |= {summary.run_id: summary for summary in outcome}
        self.trained |= ids
        for number in waiting:
            self.pending[number] -= ids
            if not self.pending[number]:
                self._advance(number, wait)
        return []

    def _advance(self, number: int, wait: bool) -> None:
        """Submit the runs that a cell needs next, or record the cell if it needs none."""
        cell = self.cells[number]
        try:
            if cell.sweep.config.body in self.unavailable_bodies:
                raise self.unavailable_bodies[cell.sweep.config.body]  # a hub that cannot be reached takes long to fail
            configs = self._next_runs(cell)
            if not configs:
                self._append(number, self._finished_records(cell))
                return
        except (ConfigError, DataError, WeightsError) as error:
            self._record_missing(number, error)
            return
        self.pending[number] = {config.run_id for config in configs}
        if new := [config for config in configs if config.run_id not in self.submitted]:
            self.submitted |= {config.run_id for config in new}
            self.executor.submit(new, cell.title, wait)

    def _next_runs(self, cell: CellPlan) -> list[RunConfig]:
        """The runs that a cell needs next: first the one that trains its body, then those of its sweep."""
        configs, pretraining = cell.sweep.missing(self._done(cell), self.context.race), cell.pretraining
        body = Path(cell.sweep.config.weights)
        if not configs or pretraining is None or body.exists():
            return configs
        if pretraining.run_id not in self.trained:  # a line in the results is not enough, the program is needed
            return [pretraining]
        program = Program.load(RunFolder(self.context.out, pretraining).program_path)
        write_body(program, build_body_of(pretraining), body)
        return configs

    def _done(self, cell: CellPlan) -> dict[str, RunSummary]:
        """What is known of all runs. A run that fell behind in several races counts with that of the cell."""
        done = dict(self.summaries)
        for record in self.records:
            summary = done.get(record.run_id)
            if record.key == cell.key and summary and record.run_id not in self.trained and summary.status == BEHIND:
                done[record.run_id] = record.summary
        return done

    def _finished_records(self, cell: CellPlan) -> list[RunRecord]:
        """The records of a cell whose runs are finished: its own, copies from other cells, or new ones."""
        if self.context.resume:
            self.records = read_existing(self.file.parent)  # another process may have recorded the same cell
        done = self._done(cell)
        # a run that fell behind in a race may have been trained again since
        current = [r for r in self.records if r.run_id in done and r.summary.race == done[r.run_id].race]
        of_cell = {record.run_id: record for record in current if record.key == cell.key}
        of_all = {record.run_id: record for record in current}
        records = []
        for config in cell.sweep.runs(done, self.context.race):
            record = of_cell.get(config.run_id)
            if record is None and config.run_id in of_all:
                record = replace(of_all[config.run_id], key=cell.key)
            if record is None:
                record = RunRecord.from_folder(RunFolder(self.context.out, config), cell.key, cell.command)
            records.append(record)
        return records if cell.analysis is None else self._analyzed(cell.analysis, records)

    def _analyzed(self, analysis: Analysis, records: Sequence[RunRecord]) -> list[RunRecord]:
        """The records, those of the chosen learning rate with the results of the analysis."""
        chosen_lr = sweep.summarize_runs([record.summary for record in records]).chosen_lr
        return [self._measured(analysis, record) if record.summary.lr == chosen_lr else record for record in records]

    def _measured(self, analysis: Analysis, record: RunRecord) -> RunRecord:
        """The record with the results of the analysis, unless it has them already or its program is not here."""
        run_folder = self.context.out / record.run_id
        if record.extra or not run_folder.exists():  # results can be copied here without the programs
            return record
        model, task = sweep.open_run(run_folder, self.context.data_dir, self.context.device)
        return replace(record, extra=analysis(model, task, self.file.parent, record.run_id))

    def _record_missing(self, number: int, error: UserError) -> None:
        """Record why a cell cannot be trained, and log it once for each body."""
        cell = self.cells[number]
        body = cell.sweep.config.body
        if body not in self.unavailable_bodies:
            self.log(f"{cell.title}: {error}")
        if isinstance(error, WeightsError):
            self.unavailable_bodies[body] = error
        self._append(number, [RunRecord(cell.key, cell.command, f"{datetime.date.today()}", missing=str(error))])

    def _append(self, number: int, records: list[RunRecord]) -> None:
        append_records(self.file, [record for record in records if record not in self.records])
        self.records += records
        self.records_of_cell[number] = records


def read_existing(folder: Path, log: Callable[[str], object] = lambda message: None) -> list[RunRecord]:
    """The records in a folder of results, none if it has none yet; `log` gets a message for each unreadable line."""
    try:
        records, faults = read_records(folder)
    except DataError:
        return []
    for fault in faults:
        log(fault)
    return records


def unfinished_cells(
    cells: Sequence[CellPlan], folder: Path, device: str = "auto", resume: bool = True, race: bool = False
) -> list[tuple[CellPlan, float]]:
    """The cells that are not complete in the results, each with the expected seconds of its training (`estimate`).

    race  learning rates that fall behind stop early
    """
    summaries = _summaries(read_existing(folder)) if resume else {}
    unfinished = [cell for cell in cells if cell.sweep.missing(summaries, race)]
    if not unfinished:
        return []
    speed = estimate.Speed.measure(device, unfinished[0].sweep.config.precision)
    estimates: list[tuple[CellPlan, float]] = []
    pretrained: set[str] = set()
    for cell in unfinished:
        seconds = estimate.seconds(cell.sweep.config, cell.sweep.cost(race), speed, "login")
        if cell.pretraining and cell.pretraining.run_id not in pretrained:  # once for all cells
            pretrained.add(cell.pretraining.run_id)
            seconds += estimate.seconds(cell.pretraining, 1, speed, "login")
        estimates.append((cell, seconds))
    return estimates


def _summaries(records: Sequence[RunRecord]) -> dict[str, RunSummary]:
    """Summaries by run id; of a run that fell behind in a race and was also trained to its end, the latter."""
    in_order = sorted(records, key=lambda record: record.summary.status != BEHIND)
    return {record.run_id: record.summary for record in in_order if record.run_id}
