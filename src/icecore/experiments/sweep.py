"""Many runs: expand lists into configurations, skip what is finished, train the rest in packs, summarise.

A sweep over learning rates and seeds is one packed training. Its summary says which learning rate validation chose,
and the test metric there as mean and standard error over seeds.
"""

import contextlib
import hashlib
import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icecore.backbones import HubAccess, build_body_of
from icecore.core.config import SINGLE_ROLES, RunConfig
from icecore.core.device import select_runtime
from icecore.core.errors import BusyError, ConfigError, unknown_name
from icecore.core.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from icecore.core.settings import check_names, check_types
from icecore.core.storage import write_json
from icecore.experiments.race_plan import can_race, done_for, start_over_after_race, why_not_raced
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.tasks import TASKS, build_task
from icecore.tasks.entry import TaskRequest, read_options
from icecore.tasks.task import Task
from icecore.training.checkpoint import CONFIG, RunFolder, read_config
from icecore.training.compilation import pays_to_compile
from icecore.training.context import ExecutionContext
from icecore.training.loop import train_pack
from icecore.training.micro_batches import max_runs
from icecore.training.racing import race_cost
from icecore.training.run_summary import BEHIND, DIVERGED, RunSummary, SweepSummary


def make_config(task: str, precision: str = "auto", device: str = "auto", **settings: Any) -> RunConfig:
    """The configuration of one run: the given `settings`, and the defaults of protocol and task for the others.

    A setting that is None counts as not given. Raises ConfigError for unknown names and values.
    """
    entry = TASKS.get(task)
    if entry is None:
        raise unknown_name("task", task, TASKS)
    given = {name: value for name, value in settings.items() if value is not None}
    check_names(RunConfig, given)
    check_types(RunConfig, given)
    # all options are written out, so that a configuration keeps its meaning if a default changes later
    given["task_options"] = read_options(TaskRequest(given.get("task_options", {})), task, entry.options)
    name = given.get("protocol", DEFAULT_PROTOCOL)
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    protocol = PROTOCOLS[name]
    defaults = entry.paper if name == "paper" else entry.defaults
    base: dict[str, Any] = {
        "steps": defaults.steps,
        "batch_size": defaults.batch_size,
        "lr": defaults.lr,
        "eval_every": min(defaults.eval_every, given.get("steps", defaults.steps)),
        **protocol.settings(),
        "precision": select_runtime(device, precision).precision,
    }
    if name == "paper" and str(given.get("backbone", "")).startswith("lstm"):
        base["lr"] = 3e-4  # the paper's learning rate for LSTMs
    return RunConfig(task=task, **(base | given))


def expand_sweep(
    config: RunConfig, lrs: Sequence[float] = (), seeds: Sequence[int] = (), body_draws: bool = False
) -> list[RunConfig]:
    """One configuration for each learning rate and seed, learning rates outermost.

    body_draws  each seed has a random body of its own, drawn from the same seed
    """
    pairs = itertools.product(dict.fromkeys(lrs or [config.lr]), dict.fromkeys(seeds or [config.seed]))
    return [replace(config, lr=lr, seed=seed, body_seed=seed if body_draws else config.body_seed) for lr, seed in pairs]


def run_sweep(configs: Sequence[RunConfig], context: ExecutionContext | None = None) -> SweepSummary:
    """Train what is not finished yet and write the sweep's summary to `out/summary.json`. Returns it.

    A copy with a name of its own stays there when the next sweep writes its summary to the same folder.
    """
    context = context or ExecutionContext()
    summary = summarize_runs(train_runs(configs, context))
    if context.world.is_main:
        for name in ("summary.json", summary_name(configs)):
            write_json(context.out / name, summary.to_json())
    return summary


def summary_name(configs: Sequence[RunConfig]) -> str:
    """The name of a sweep's own summary: its task, body and weights, and eight digits that only equal runs have."""
    first = configs[0]
    digest = hashlib.sha256(" ".join(config.run_id for config in configs).encode()).hexdigest()[:8]
    words = (first.task, Path(first.backbone).name, Path(first.weights).stem, digest)
    return f"summary-{'-'.join(re.sub(r'[^A-Za-z0-9.]+', '-', word).strip('-') for word in words)}.json"


def train_runs(configs: Sequence[RunConfig], context: ExecutionContext, task: Task | None = None) -> list[RunSummary]:
    """Train the unfinished runs; those that share a body are packed. Returns the summaries of all runs, in order.

    task  the task of all configurations, on the device, if it has been read already

    With `context.race`, learning rates that fall behind stop early. Their runs count as finished only for the same race
    again; any other request trains them from their start.

    Waits for runs that another process is training, or raises BusyError if `context.wait` is false.
    """
    for config in configs:
        context.world.check(config)
    folders = {config.run_id: context.world.folder(context.out, config) for config in configs}
    with contextlib.ExitStack() as locks:
        for run_id in sorted(folders):  # in one order, so that no two processes wait for each other
            folders[run_id].open()
            if not locks.enter_context(folders[run_id].lock(wait=False)):
                if not context.wait:
                    raise BusyError(f"Another process is training the run {folders[run_id].path}.")
                for callback in context.callbacks:
                    callback.waiting(run_id)
                locks.enter_context(folders[run_id].lock())
            if not context.resume:
                folders[run_id].reset()
        requested = [folder.config for folder in folders.values()]
        restarted = start_over_after_race(folders.values(), requested, context.race)
        finished = {run_id: summary for run_id, folder in folders.items() if (summary := folder.summary()) is not None}
        for run_id in finished:
            folders[run_id].drop_states()  # a kill may have come after the summary and before this
        unfinished = [
            # runs that start over must not take the others of their pack with them
            (folder.config, [each for each in folder.pack() if each not in restarted])
            for run_id, folder in folders.items()
            if run_id not in finished
        ]
        trained = _train_unfinished(context.world.broadcast(unfinished), requested, context, task)
    summaries = context.world.broadcast({**finished, **{summary.run_id: summary for summary in trained}})
    return [summaries[run_id] for run_id in folders]


def _train_unfinished(
    unfinished: Sequence[tuple[RunConfig, list[str]]],
    requested: Sequence[RunConfig],
    context: ExecutionContext,
    task: Task | None,
) -> list[RunSummary]:
    """Train runs, each given with the ids of the pack that it was last in. `requested` are also the finished ones."""
    summaries: list[RunSummary] = []
    notes: set[str] = set()
    tasks = TaskReader(context)
    for group in packs([config for config, _ in unfinished], [pack for _, pack in unfinished]):
        data = task or tasks.task_of(group[0])
        size = pack_size(group, data, context)
        for first in range(0, len(group), size):
            pack = group[first : first + size]
            race = context.race and can_race(pack, requested)
            note = why_not_raced(pack, requested) if context.race else None
            if note is not None and note not in notes:
                notes.add(note)
                for callback in context.callbacks:
                    callback.note(note)
            summaries += train_pack(data, context.backbone(pack[0]), pack, replace(context, race=race))
    return summaries


@dataclass(frozen=True)
class Sweep:
    """One configuration at several learning rates and seeds, of which validation chooses the rate.

    staged      only the first seed tries every learning rate; the others use the chosen one
    body_draws  each seed has a random body of its own, so that the error over seeds contains the draw of the body
    """

    config: RunConfig
    lrs: Sequence[float]
    seeds: Sequence[int]
    staged: bool = False
    body_draws: bool = False

    def __len__(self) -> int:
        lrs, seeds = len(self.lrs), len(self.seeds)
        return lrs + seeds - 1 if self.staged else lrs * seeds

    def cost(self, race: bool) -> float:
        """The training of the sweep in runs that are trained to their end, if its learning rates race or not."""
        if not race or SINGLE_ROLES & set(self.config.train_roles):
            return len(self)
        cost, seeds = race_cost(len(self.lrs)), len(self.seeds)
        return cost + seeds - 1 if self.staged else cost * seeds

    def runs(self, done: Mapping[str, RunSummary], race: bool = False) -> list[RunConfig]:
        """The runs that are known so far, given the summaries of finished runs by run id.

        race  learning rates that fall behind stop early
        """
        return [config for stage in self._stages(done, race) for config in stage]

    def missing(self, done: Mapping[str, RunSummary], race: bool = False) -> list[RunConfig]:
        """The runs to train next; none if all are finished."""
        stages = [(stage, done_for(done, stage, race)) for stage in self._stages(done, race)]
        return [config for stage, finished in stages for config in stage if config.run_id not in finished]

    def _stages(self, done: Mapping[str, RunSummary], race: bool) -> list[list[RunConfig]]:
        """The runs that try the learning rates, then, if they are finished, those of the other seeds."""
        first = expand_sweep(self.config, self.lrs, self.seeds[:1] if self.staged else self.seeds, self.body_draws)
        finished = done_for(done, first, race)
        if len(first) == len(self) or len(finished) < len(first):
            return [first]
        chosen = summarize_runs(list(finished.values())).chosen_lr
        if chosen is None:
            return [first]
        return [first, expand_sweep(self.config, [chosen], self.seeds[1:], self.body_draws)]


def packs(configs: Sequence[RunConfig], begun: Sequence[Sequence[str]] = ()) -> list[list[RunConfig]]:
    """Runs in groups that differ in learning rate and seed only.

    begun  run ids of the pack that each run was last trained in. These stay together and apart from new runs, so that
           they continue from their states to the bit
    """
    known = dict(zip((c.run_id for c in configs), begun, strict=False))
    groups: dict[tuple[str, ...], list[RunConfig]] = {}
    for config in configs:
        # a kill may have come before this run's own record was written, but after that of another run of its pack
        records = (known.get(config.run_id, ()), *known.values())
        together = next((ids for ids in records if config.run_id in ids), ())
        groups.setdefault((config.pack_key(), *together), []).append(config)
    return list(groups.values())


def pack_size(configs: Sequence[RunConfig], task: Task, context: ExecutionContext) -> int:
    """How many of the runs, which share a body, train at once: as many as memory allows (`max_runs`).

    A larger group is trained in packs of this size, in order; those of a race have all seeds of their learning rates.
    If it is interrupted, it is split at the same places again: finished runs are whole packs, and the interrupted pack
    is a group of its own (`packs`).
    """
    if len(configs) == 1:
        return 1
    config = configs[0]
    runtime, backbone = context.runtime(config), context.backbone(config)
    # measured with two runs, because a model of one run keeps less
    trial = context.place(FPT(task.spec, backbone, [0, 1], model_settings(config), runtime.precision), runtime)
    size = min(len(configs), max_runs(trial, task, min(context.micro_batch or 1, config.batch_size)))
    seeds = len({each.seed for each in configs})
    return size - size % seeds if context.race and seeds < size < len(configs) else size


def load_task(config: RunConfig, data_dir: str | None) -> Task:
    """The task of a configuration with its data and read-out, and with the faults that its protocol keeps.

    Raises ConfigError for another read-out than the last positions if the task reads several.
    """
    task = build_task(config.task, TaskRequest(config.task_options, data_dir, config.faults))
    if config.read_out is not None:
        if task.spec.read_positions > 1 and config.read_out != "last":
            raise ConfigError(
                f"--read-out {config.read_out}: {config.task} has {task.spec.read_positions} answers, each read at a "
                "position of its own. Leave --read-out out."
            )
        task.spec = replace(task.spec, read_out=config.read_out)
    return task


class TaskReader:
    """Reads the tasks of runs, and keeps the last one: runs that follow each other often have the same data."""

    def __init__(self, context: ExecutionContext) -> None:
        self.context = context
        self._last: tuple[Any, Task] | None = None

    def task_of(self, config: RunConfig) -> Task:
        """The task of a configuration, on the device that it is trained on."""
        device = self.context.runtime(config).device
        key = config.task, config.task_options, config.faults, config.read_out, device
        if self._last is None or self._last[0] != key:
            self._last = None  # frees the memory of the previous data before the next are read
            self._last = key, load_task(config, self.context.data_dir).to(device)
        return self._last[1]


def summarize_runs(runs: Sequence[RunSummary]) -> SweepSummary:
    """The summary of a sweep: the learning rate that validation chose, and the metrics there over seeds.

    Of rates that validation finds equal, the one whose best states came first is chosen, then the smallest. A rate that
    fell behind in a race is never chosen.
    """
    seconds = round(sum(run.seconds_share for run in runs), 3)
    by_lr: dict[float, list[RunSummary]] = {}
    behind = {run.lr for run in runs if run.status == BEHIND}
    for run in runs:
        if run.val_metric is not None and run.lr not in behind:
            by_lr.setdefault(run.lr, []).append(run)
    # a rate at which more seeds diverged than at another one is not chosen, also if they had learned something before
    counts = {lr: (sum(run.status != DIVERGED for run in seeds), len(seeds)) for lr, seeds in by_lr.items()}
    means = {
        lr: statistics.fmean(run.val_metric or 0.0 for run in seeds)
        for lr, seeds in by_lr.items()
        if counts[lr] == max(counts.values())
    }
    if not means:
        return SweepSummary(tuple(runs), seconds=seconds)
    first = {lr: statistics.fmean(run.best_step for run in by_lr[lr]) for lr in means}
    chosen = min(means, key=lambda lr: (-means[lr], first[lr], lr))
    tests = [run.test_metric for run in by_lr[chosen] if run.test_metric is not None]
    sem = statistics.stdev(tests) / math.sqrt(len(tests)) if len(tests) > 1 else None
    mean = statistics.fmean(tests) if tests else None
    return SweepSummary(tuple(runs), chosen, means[chosen], mean, sem, len(tests), seconds)


def read_run_config(path: Path) -> RunConfig:
    """The configuration of a run folder. Raises ConfigError if `path` is not one."""
    if not (path / CONFIG).is_file():
        inside = sorted(p.parent.name for p in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
        hint = f" It contains the runs {', '.join(inside[:5])}." if inside else ""
        raise ConfigError(f"{path} is not a run folder, because it has no {CONFIG}.{hint}")
    return read_config(path)


def open_run(
    path: Path,
    data_dir: str | None = None,
    device: str = "auto",
    task: Task | None = None,
    hub: HubAccess = "off",
) -> tuple[FPT, Task]:
    """The trained model and the task of a run folder, ready to score on `device`.

    task  the task of the run, if it has been read already
    hub   whether a body that is not on this machine may be fetched, because run folders may be somebody else's

    Raises ConfigError for a folder that is not a finished run, WeightsError if the body has changed.
    """
    config = read_run_config(path)
    folder = RunFolder.at(path, config)
    if folder.race():
        raise ConfigError(
            f"The run in {path} has no program, because its learning rate {config.lr:g} fell behind in a race. Train "
            "it with --no-race, or open the run of a rate that went on."
        )
    if not folder.program_path.exists():
        raise ConfigError(
            f"The run in {path} has no program: it is not finished (give its command again), or it diverged."
        )
    program = replace(Program.load(folder.program_path), config=config)
    return open_program(program, task or load_task(config, data_dir), device, hub)


def open_program(program: Program, task: Task, device: str = "auto", hub: HubAccess = "off") -> tuple[FPT, Task]:
    """The model of a program and its task, ready to score on `device`. Raises WeightsError if the body has changed."""
    runtime = select_runtime(device, program.config.precision)
    task = task.to(runtime.device)
    model = load_programs([program], build_body_of(program.config, hub), runtime.precision).to(runtime.device)
    rows = sum(task.split_size(split) for split in task.test_splits)
    model.compiled = pays_to_compile(model, rows, training=False)
    return model, task
