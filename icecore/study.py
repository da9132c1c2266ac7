"""Studies: cells of a table as sweeps, announced with their expected time, trained, written down run by run.

What is finished, in the results or as a run folder, is never trained again. A cell whose weights or data
are not here says what to get, and the others run.
"""

import datetime
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icecore import attention, estimate, grid, results
from icecore import runtime as runtimes
from icecore.checkpoint import RunFolder
from icecore.config import RunConfig
from icecore.errors import ConfigError, DataError, WeightsError
from icecore.program import Program, write_body
from icecore.results import Record, Spot
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Task


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its place, its sweep, and the command that makes it.

    pretraining  the run that makes the body whose file the sweep's `weights` name
    attend       attention maps of the chosen rate's first run are measured and drawn
    """

    spot: Spot
    sweep: grid.Sweep
    command: str
    pretraining: RunConfig | None = None
    attend: bool = False


def run(cells: Sequence[Cell], file: Path, place: grid.Place, say: Callable[[str], object]) -> list[Record]:
    """Train what is missing, cell by cell, and append it to the results `file`. Returns the cells' records.

    place.out  where the run folders are
    say        is told of cells that cannot be made
    """
    found = known(file.parent, say) if place.resume else []
    made: list[Record] = []
    absent: dict[tuple[Any, ...], WeightsError] = {}
    for _, group in itertools.groupby(cells, key=_data_key):
        neighbours = list(group)
        # read when the first of them trains, and once for all
        load = functools.cache(functools.partial(_load, neighbours[0].sweep.config, place))
        for cell in neighbours:
            config = cell.sweep.config
            body = config.backbone, config.weights, config.layers
            try:
                if body in absent:
                    raise absent[body]  # asking a hub that cannot be reached takes its time, each time
                records = _make(cell, load, found, place, file.parent)
            except (ConfigError, DataError, WeightsError) as error:
                if body not in absent:  # once for all columns
                    say(f"{cell.spot.row}, {cell.spot.column}: {error}")
                if isinstance(error, WeightsError):
                    absent[body] = error
                records = [Record(cell.spot, cell.command, f"{datetime.date.today()}", missing=str(error))]
            results.append(file, [record for record in records if record not in found])
            found += records
            made += records
    return made


def known(folder: Path, say: Callable[[str], object] = lambda fault: None) -> list[Record]:
    """Records in a folder of results, none where there is none yet; `say` is told of what cannot be read."""
    try:
        records, faults = results.read(folder)
    except DataError:
        return []
    for fault in faults:
        say(fault)
    return records


def unfinished(
    cells: Sequence[Cell], folder: Path, device: str = "auto", resume: bool = True
) -> list[tuple[Cell, float]]:
    """The cells that are not in the results yet, each with about how many seconds it will take (see `estimate`)."""
    done = _summaries(known(folder)) if resume else {}
    todo = [cell for cell in cells if cell.sweep.missing(done)]
    if not todo:
        return []
    speed = estimate.Speed.measure(device, todo[0].sweep.config.precision)
    found: list[tuple[Cell, float]] = []
    pretrained: set[str] = set()
    for cell in todo:
        seconds = estimate.seconds(cell.sweep.config, len(cell.sweep), speed)
        if cell.pretraining and cell.pretraining.run_id not in pretrained:  # once for all cells
            pretrained.add(cell.pretraining.run_id)
            seconds += estimate.seconds(cell.pretraining, 1, speed)
        found.append((cell, seconds))
    return found


def _summaries(records: Sequence[Record]) -> dict[str, Mapping[str, Any]]:
    return {record.run_id: record.summary for record in records if record.run_id}


def _data_key(cell: Cell) -> tuple[Any, ...]:
    """Equal for cells that train on the same data."""
    config = cell.sweep.config
    return config.task, sorted(config.task_options.items()), config.faults


def _load(config: RunConfig, place: grid.Place) -> Task:
    return grid.load_task(config, place.data_dir).to(runtimes.choose(place.device, config.precision).device)


def _make(
    cell: Cell, load: Callable[[], Task], found: Sequence[Record], place: grid.Place, folder: Path
) -> list[Record]:
    """The records of a cell: those `found` in its place, copies of those found elsewhere, the rest trained now."""
    done = _summaries(found)
    while configs := cell.sweep.missing(done):
        if cell.pretraining is not None:
            pretrain_body(cell.pretraining, Path(cell.sweep.config.weights), place)
        done |= {summary["run_id"]: summary for summary in grid.train(configs, place, load())}
    here = {record.run_id: record for record in found if record.spot == cell.spot}
    there = {record.run_id: record for record in found}
    configs, records = cell.sweep.runs(done), []
    for config in configs:
        record = here.get(config.run_id)
        if record is None and config.run_id in there:
            record = replace(there[config.run_id], spot=cell.spot)
        if record is None:
            record = results.record_of(RunFolder(place.out, config), cell.spot, cell.command)
        records.append(record)
    return _attended(records, configs, place, folder) if cell.attend else records


def pretrain_body(config: RunConfig, path: Path, place: grid.Place) -> None:
    """Train a whole body by `config` and write its weights to `path`, where there is no such file yet."""
    if not path.exists():
        grid.train([config], place)
        write_body(Program.load(RunFolder(place.out, config).program_path), grid.body_of(config), path)


def _attended(records: list[Record], configs: Sequence[RunConfig], place: grid.Place, folder: Path) -> list[Record]:
    """The records; that of the first run at the chosen learning rate has its attention measured and drawn."""
    chosen = grid.summarize([record.summary for record in records])["chosen_lr"]
    at = next((i for i, config in enumerate(configs) if config.lr == chosen), None)
    if at is None or "attention" in records[at].extra:
        return records
    run_folder = RunFolder(place.out, configs[at]).path
    if not run_folder.exists():  # the results were copied here, the program was not
        return records
    model, task = grid.open_run(run_folder, place.data_dir, place.device)
    if not isinstance(task, BitXor):
        raise ConfigError(f"{task.name}: attention on needed bits is measured on bit-xor")
    maps = attention.attention_maps(model, task)
    picture = Path("attention") / f"{configs[at].run_id}.png"
    body = model.backbone.info
    attention.draw(maps, folder / picture, f"{task.name} on {body.name} ({body.weights})", task)
    measured = attention.xor_attention(maps, task).summary()
    records[at] = replace(records[at], extra={"attention": measured, "picture": str(picture)})
    return records
