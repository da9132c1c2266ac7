"""Many runs: expand lists into configurations, skip what is finished, pack what can be packed, sum up.

A sweep over learning rates and seeds is one packed training; the summary of the group says which
learning rate validation chose and the test metric there as mean and standard error over seeds.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icecore import runtime as runtimes
from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.checkpoint import RunFolder, write_json
from icecore.config import PROTOCOLS, RunConfig
from icecore.errors import ConfigError, unknown
from icecore.model import FPT
from icecore.program import Program, assemble
from icecore.tasks import TASKS, build_task
from icecore.tasks.task import Task, TaskRequest
from icecore.train import Execution, Watcher, train_pack


@dataclass(frozen=True)
class Place:
    """Where a group of runs computes and keeps its files; none of it changes results."""

    out: Path = Path("runs")
    data_dir: str | None = None
    device: str = "auto"
    micro_batch: int | None = None
    resume: bool = True
    watchers: Sequence[Watcher] = ()


def configure(task: str, precision: str = "auto", device: str = "auto", **settings: Any) -> RunConfig:
    """The configuration of one run: the protocol's and the task's defaults under the given `settings`.

    Settings that are None count as not given. Raises ConfigError for unknown names and values.
    """
    entry = TASKS.get(task)
    if entry is None:
        raise unknown("task", task, TASKS)
    given = {name: value for name, value in settings.items() if value is not None}
    name = given.get("protocol", "fair")
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    protocol = PROTOCOLS[name]
    defaults = entry.paper if name == "paper" else entry.defaults
    base: dict[str, Any] = {
        "steps": defaults.steps,
        "batch_size": defaults.batch_size,
        "lr": defaults.lr,
        "eval_every": min(defaults.eval_every, given.get("steps", defaults.steps)),
        "dropout": protocol.dropout,
        "schedule": protocol.schedule,
        "warmup": protocol.warmup,
        "precision": runtimes.choose(device, precision).precision,
    }
    if name == "paper" and str(given.get("backbone", "")).startswith("lstm"):
        base["lr"] = 3e-4  # the paper's learning rate for LSTMs
    return RunConfig(task=task, **(base | given))


def expand(config: RunConfig, lrs: Sequence[float] = (), seeds: Sequence[int] = ()) -> list[RunConfig]:
    """One configuration for each learning rate and seed, learning rates outermost."""
    pairs = itertools.product(dict.fromkeys(lrs or [config.lr]), dict.fromkeys(seeds or [config.seed]))
    return [replace(config, lr=lr, seed=seed) for lr, seed in pairs]


def run(configs: Sequence[RunConfig], place: Place = Place()) -> dict[str, Any]:
    """Train what is not finished yet, packed where runs share a body, and write the group's summary.

    Returns the content of `out/summary.json`. Finished runs are read, not run again.
    """
    folders = {config.run_id: RunFolder(place.out, config) for config in configs}
    for folder in folders.values():
        folder.open()
        if not place.resume:
            folder.reset()
    missing = [c for c in configs if folders[c.run_id].summary() is None]
    for pack in packs(missing):
        first = pack[0]
        chosen = runtimes.choose(place.device, first.precision)
        task = load_task(first, place.data_dir).to(chosen.device)
        train_pack(task, body_of(first), pack, Execution(place.out, chosen, place.micro_batch, watchers=place.watchers))
    summaries = [folders[c.run_id].summary() for c in configs]
    group = summarize([s for s in summaries if s is not None])
    write_json(place.out / "summary.json", group)
    return group


def packs(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Runs grouped so that each group differs in learning rate and seed only."""
    groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(config.pack_key(), []).append(config)
    return list(groups.values())


def load_task(config: RunConfig, data_dir: str | None) -> Task:
    """The task of a configuration, its data read, with the faults its protocol keeps."""
    return build_task(config.task, TaskRequest(config.task_options, data_dir, config.faults))


def summarize(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The group summary: the learning rate validation chose, and the metrics there over seeds.

    `test_sem` is the standard error of the mean over seeds, None for a single seed.
    """
    group: dict[str, Any] = {"runs": list(runs), "chosen_lr": None, "val_mean": None, "test_mean": None, "test_sem": None}
    by_lr: dict[float, list[Mapping[str, Any]]] = {}
    for summary in runs:
        if summary["val_metric"] is not None:
            by_lr.setdefault(summary["lr"], []).append(summary)
    # a learning rate at which some seed diverged counts only if no other is left
    complete = max((len(group) for group in by_lr.values()), default=0)
    means = {lr: _mean(group, "val_metric") for lr, group in by_lr.items() if len(group) == complete}
    if means:
        chosen = max(means, key=lambda lr: means[lr])
        tests = [summary["test_metric"] for summary in by_lr[chosen]]
        group |= {"chosen_lr": chosen, "val_mean": means[chosen], "test_mean": statistics.fmean(tests)}
        if len(tests) > 1:
            group["test_sem"] = statistics.stdev(tests) / math.sqrt(len(tests))
    group["n_seeds"] = len({summary["seed"] for summary in runs})
    # packed runs share their seconds: count each pack's wall time once
    group["seconds"] = round(sum(s["seconds"] / s["packed_runs"] for s in runs), 3)
    return group


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.fmean(summary[key] for summary in runs)


def find_run(path: Path) -> RunConfig:
    """The configuration of a run folder. Raises ConfigError where `path` is none."""
    held = path / "config.json"
    if not held.is_file():
        inside = sorted(p.parent.name for p in path.glob("*/config.json")) if path.is_dir() else []
        hint = f"; it holds the runs {', '.join(inside[:5])}" if inside else ""
        raise ConfigError(f"{path}: not a run folder (no config.json){hint}")
    return RunConfig.from_json(held.read_text())


def open_run(path: Path, data_dir: str | None = None, device: str = "auto") -> tuple[FPT, Task]:
    """The trained model and the task of a run folder, ready to score on `device`.

    Raises ConfigError for a folder that is no finished run, WeightsError where the body has changed.
    """
    config = find_run(path)
    program = Program.load(path / "program.safetensors")
    chosen = runtimes.choose(device, config.precision)
    task = load_task(config, data_dir).to(chosen.device)
    model = assemble([program], body_of(config), chosen.dtype).to(chosen.device)
    return model, task


def body_of(config: RunConfig) -> Backbone:
    """The body of a configuration, with its weights."""
    return build_backbone(BodyRequest(config.backbone, config.weights, config.layers, config.body_seed))


def describe(path: Path) -> dict[str, Any]:
    """What a run folder or a program file holds, as one flat table. Raises ConfigError, DataError."""
    if path.is_file():
        program = Program.load(path)
        held = {f"{split} metric": metric for split, metric in program.metrics.items()}
        about = {"run_id": program.config.run_id, "fingerprint": program.fingerprint, "versions": dict(program.versions)}
        return vars(program.config) | held | about | {"tensors": {n: tuple(t.shape) for n, t in program.tensors.items()}}
    config = find_run(path)
    folder = RunFolder(path.parent, config)
    summary = folder.summary()
    state = {"status": f"unfinished, last state at step {max(folder.saved_steps(), default=0)}"}
    return {**vars(config), **(summary if summary is not None else state)}
