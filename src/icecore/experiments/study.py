"""Studies: cells of a table as sweeps, announced with their expected time, trained, written down cell by cell.

What is finished, in the results or as a run folder, is never trained again, and what another process is training
comes last. A cell whose weights or data are not here says what to get, and the others run.
"""

import datetime
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from icecore.core.config import RunConfig
from icecore.core.device import select_runtime
from icecore.core.errors import BusyError, ConfigError, DataError, UserError, WeightsError
from icecore.experiments import estimate, results, sweep
from icecore.experiments.results import CellKey, RunRecord
from icecore.model.program import Program, write_body
from icecore.paper import attention_analysis as attention
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Task
from icecore.training.checkpoint import RunFolder

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class CellPlan:
    """A cell of a table: its place, its sweep, and the command that makes it.

    pretraining  the run that makes the body whose file the sweep's `weights` name
    attend       attention maps of the chosen rate's first run are measured and drawn
    """

    spot: CellKey
    sweep: sweep.Sweep
    command: str
    pretraining: RunConfig | None = None
    attend: bool = False


class Executor(Protocol):
    """Who trains the runs of a study: this process (`LocalExecutor`) or the nodes of a cluster (`RayExecutor`)."""

    @property
    def free(self) -> bool:
        """Whether more can be submitted before something has finished."""
        ...

    def submit(self, configs: Sequence[RunConfig], title: str, wait: bool) -> None:
        """Train runs, which a person knows by `title`; those of another process only if told to `wait` for it."""

    def finished(self) -> tuple[Sequence[RunConfig], Sequence[Summary] | UserError]:
        """Wait for some of the runs: their summaries, or why these cannot be made. Raises what concerns all runs."""
        ...


class LocalExecutor:
    """Trains in this process, one cell after another, and keeps the data from each to the next."""

    def __init__(self, place: sweep.Place) -> None:
        self.place = place
        self.asked: tuple[Sequence[RunConfig], bool] | None = None
        self.data: tuple[Any, Task] | None = None

    @property
    def free(self) -> bool:
        """Whether nothing is waiting to be trained."""
        return self.asked is None

    def submit(self, configs: Sequence[RunConfig], title: str, wait: bool) -> None:
        """Train runs of one task when `finished` is called."""
        self.asked = configs, wait

    def finished(self) -> tuple[Sequence[RunConfig], Sequence[Summary] | UserError]:
        """Train what was submitted last. Raises StorageError, and UserError where memory is short."""
        assert self.asked is not None
        (configs, wait), self.asked = self.asked, None
        try:
            return configs, sweep.train_runs(configs, replace(self.place, wait=wait), self._task(configs[0]))
        except (BusyError, ConfigError, DataError, WeightsError) as error:
            return configs, error

    def _task(self, config: RunConfig) -> Task:
        key = config.task, config.task_options, config.faults
        if self.data is None or self.data[0] != key:
            self.data = None  # never hold two
            device = select_runtime(self.place.device, config.precision).device
            self.data = key, sweep.load_task(config, self.place.data_dir).to(device)
        return self.data[1]


def run_study(
    cells: Sequence[CellPlan],
    file: Path,
    place: sweep.Place,
    say: Callable[[str], object],
    executor: Executor | None = None,
) -> list[RunRecord]:
    """Train what is missing, and append each cell to the results `file` once it is whole. Returns the cells' records.

    place.out  where the run folders are
    say        is told of cells that cannot be made
    executor       who trains (None: this process)
    """
    return _Making(cells, file, place, say, executor or LocalExecutor(place)).run()


class _Making:
    """The cells of a study in the making: which runs each waits for, and what is known of all runs."""

    def __init__(
        self,
        cells: Sequence[CellPlan],
        file: Path,
        place: sweep.Place,
        say: Callable[[str], object],
        executor: Executor,
    ) -> None:
        self.cells, self.file, self.place, self.say, self.executor = cells, file, place, say, executor
        self.found = known(file.parent, say) if place.resume else []
        self.done = _summaries(self.found)
        #: ids of runs that the executor has, of those that it has made, and of those that a cell needs to go on
        self.asked: set[str] = set()
        self.trained: set[str] = set()
        self.needed: dict[int, set[str]] = {}
        self.absent: dict[tuple[Any, ...], WeightsError] = {}
        self.made: dict[int, list[RunRecord]] = {}

    def run(self) -> list[RunRecord]:
        todo, busy, wait = deque(range(len(self.cells))), list[int](), False
        while todo or busy or self.asked:
            if not todo and not self.asked:  # only what others are training is left
                todo, busy, wait = deque(busy), [], True
            while todo and self.executor.free:
                self._go_on(todo.popleft(), wait)
            if not self.asked:
                continue
            configs, outcome = self.executor.finished()
            ids = {config.run_id for config in configs}
            self.asked -= ids
            waiting = [number for number, needed in self.needed.items() if needed & ids]
            if not isinstance(outcome, UserError):
                self.done |= {summary["run_id"]: summary for summary in outcome}
                self.trained |= ids
                for number in waiting:
                    self.needed[number] -= ids
                    if not self.needed[number]:
                        self._go_on(number, wait)
                continue
            for number in waiting:
                del self.needed[number]
                if isinstance(outcome, BusyError):
                    busy.append(number)
                else:
                    self._give_up(number, outcome)
        return [record for number in range(len(self.cells)) for record in self.made[number]]

    def _go_on(self, number: int, wait: bool) -> None:
        """Have the runs made that a cell needs next, or write it down where it needs none."""
        cell = self.cells[number]
        try:
            if cell.sweep.config.body in self.absent:
                raise self.absent[cell.sweep.config.body]  # asking a hub that cannot be reached takes its time
            configs = self._next(cell)
            if not configs:
                self._write(number, self._records(cell))
                return
        except (ConfigError, DataError, WeightsError) as error:
            self._give_up(number, error)
            return
        self.needed[number] = {config.run_id for config in configs}
        if fresh := [config for config in configs if config.run_id not in self.asked]:
            self.asked |= {config.run_id for config in fresh}
            self.executor.submit(fresh, f"{cell.spot.row}, {cell.spot.column}", wait)

    def _next(self, cell: CellPlan) -> list[RunConfig]:
        """The runs that a cell needs next: that which makes its body, then those of its sweep that can be known."""
        configs, start, body = cell.sweep.missing(self.done), cell.pretraining, Path(cell.sweep.config.weights)
        if not configs or start is None or body.exists():
            return configs
        if start.run_id not in self.trained:  # in the results or not: its program is needed
            return [start]
        write_body(Program.load(RunFolder(self.place.out, start).program_path), sweep.load_body(start), body)
        return configs

    def _records(self, cell: CellPlan) -> list[RunRecord]:
        """The records of a cell whose runs are done: those in its place, copies from others, the rest new."""
        if self.place.resume:
            self.found = known(self.file.parent)  # another process may have written the same cell
        here = {record.run_id: record for record in self.found if record.spot == cell.spot}
        there = {record.run_id: record for record in self.found}
        configs, records = cell.sweep.runs(self.done), []
        for config in configs:
            record = here.get(config.run_id)
            if record is None and config.run_id in there:
                record = replace(there[config.run_id], spot=cell.spot)
            if record is None:
                record = results.record_of(RunFolder(self.place.out, config), cell.spot, cell.command)
            records.append(record)
        return _attended(records, configs, self.place, self.file.parent) if cell.attend else records

    def _give_up(self, number: int, error: UserError) -> None:
        """Write down why a cell cannot be made, and say so once for all columns."""
        cell = self.cells[number]
        body = cell.sweep.config.body
        if body not in self.absent:
            self.say(f"{cell.spot.row}, {cell.spot.column}: {error}")
        if isinstance(error, WeightsError):
            self.absent[body] = error
        self._write(number, [RunRecord(cell.spot, cell.command, f"{datetime.date.today()}", missing=str(error))])

    def _write(self, number: int, records: list[RunRecord]) -> None:
        results.append(self.file, [record for record in records if record not in self.found])
        self.found += records
        self.made[number] = records


def known(folder: Path, say: Callable[[str], object] = lambda fault: None) -> list[RunRecord]:
    """Records in a folder of results, none where there is none yet; `say` is told of what cannot be read."""
    try:
        records, faults = results.read(folder)
    except DataError:
        return []
    for fault in faults:
        say(fault)
    return records


def unfinished(
    cells: Sequence[CellPlan], folder: Path, device: str = "auto", resume: bool = True
) -> list[tuple[CellPlan, float]]:
    """The cells that are not in the results yet, each with about how many seconds it will take (see `estimate`)."""
    done = _summaries(known(folder)) if resume else {}
    todo = [cell for cell in cells if cell.sweep.missing(done)]
    if not todo:
        return []
    speed = estimate.Speed.measure(device, todo[0].sweep.config.precision)
    found: list[tuple[CellPlan, float]] = []
    pretrained: set[str] = set()
    for cell in todo:
        seconds = estimate.seconds(cell.sweep.config, len(cell.sweep), speed)
        if cell.pretraining and cell.pretraining.run_id not in pretrained:  # once for all cells
            pretrained.add(cell.pretraining.run_id)
            seconds += estimate.seconds(cell.pretraining, 1, speed)
        found.append((cell, seconds))
    return found


def _summaries(records: Sequence[RunRecord]) -> dict[str, Mapping[str, Any]]:
    return {record.run_id: record.summary for record in records if record.run_id}


def _attended(
    records: list[RunRecord], configs: Sequence[RunConfig], place: sweep.Place, folder: Path
) -> list[RunRecord]:
    """The records; that of the first run at the chosen learning rate has its attention measured and drawn."""
    chosen = sweep.summarize_runs([record.summary for record in records])["chosen_lr"]
    at = next((i for i, config in enumerate(configs) if config.lr == chosen), None)
    if at is None or "attention" in records[at].extra:
        return records
    run_folder = RunFolder(place.out, configs[at]).path
    if not run_folder.exists():  # the results were copied here, the program was not
        return records
    model, task = sweep.open_run(run_folder, place.data_dir, place.device)
    if not isinstance(task, BitXor):
        raise ConfigError(f"{task.name}: attention on needed bits is measured on bit-xor")
    maps = attention.attention_maps(model, task)
    picture = Path("attention") / f"{configs[at].run_id}.png"
    body = model.backbone.info
    attention.draw(maps, folder / picture, f"{task.name} on {body.name} ({body.weights})", task)
    measured = attention.xor_attention(maps, task).summary()
    records[at] = replace(records[at], extra={"attention": measured, "picture": str(picture)})
    return records
