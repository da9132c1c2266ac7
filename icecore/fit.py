"""Fit: a program for one's own data, good without tuning, and controls that say whether the body did anything.

One packed sweep over learning rates, stopped early on validation and sized to the minutes given. The
controls get the same budget: a random body, no body, and a plain baseline of scikit-learn.
"""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from icecore import grid
from icecore import runtime as runtimes
from icecore.baseline import fit_baseline
from icecore.checkpoint import RunFolder, write_json
from icecore.config import PROTOCOLS, RunConfig
from icecore.errors import ConfigError, StorageError, UserError
from icecore.evaluation import evaluate, predict
from icecore.execution import Execution, Watcher
from icecore.own import OwnTask
from icecore.program import Program
from icecore.train import Pack
from icecore.words import counted

#: swept unless told otherwise: half a decade apart around what suits most tasks
LRS = (3e-4, 1e-3, 3e-3, 1e-2)
#: validations of a training; it stops after so many without improvement, but not while the rate is still high
VALIDATIONS, PATIENCE = 20, 10
#: an epoch more teaches a frozen body little; small sets get at least so many steps
EPOCHS, FEWEST_STEPS = 60, 200
#: examples of a validation, at most, and at least where there are so many, however few the minutes
EXAMPLES, FEWEST_EXAMPLES = 1000, 100
#: share of the minutes that is left for the final scores
RESERVE = 0.15


@dataclass(frozen=True)
class FitSettings:
    """How a program is fitted.

    minutes   for the sweep; each control that trains takes about as long again, or less
    steps     of each run, instead of what the minutes allow
    start     program whose norms, positions and, for like tokens, input layer are the start
    controls  also train the controls
    """

    backbone: str = "minilm"
    weights: str = "pretrained"
    layers: int | None = None
    lrs: tuple[float, ...] = LRS
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 16
    minutes: float = 5.0
    steps: int | None = None
    precision: str = "auto"
    start: str | None = None
    controls: bool = False


@dataclass(frozen=True)
class Result:
    """What was reached on the scored split.

    scores  (N,) the metric of each example; its mean is the metric
    """

    name: str
    scores: Tensor
    validation: float
    seconds: float
    lr: float | None = None
    seed: int | None = None
    steps: int | None = None

    @property
    def metric(self) -> float:
        """Mean over the examples."""
        return float(self.scores.double().mean())

    def summary(self) -> dict[str, Any]:
        """The numbers, for a program's header."""
        known = {"metric": self.metric, "validation": self.validation, "examples": len(self.scores)}
        known |= {"lr": self.lr, "seed": self.seed, "steps": self.steps, "seconds": round(self.seconds, 1)}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Fitted:
    """A fitted program, its result and those of the controls, and what they say in a sentence."""

    program: Program
    result: Result
    controls: tuple[Result, ...] = ()
    metric_name: str = "accuracy"

    @property
    def verdict(self) -> str:
        """Whether the body did anything, in a sentence; empty without controls."""
        return verdict(self.result, self.controls, self.metric_name) if self.controls else ""


def fit(
    task: OwnTask,
    settings: FitSettings,
    out: Path,
    extra: dict[str, Any] | None = None,
    device: str = "auto",
    watchers: Sequence[Watcher] = (),
) -> Fitted:
    """Train programs for `task` and write the best one, with `extra` in its header, to `out`.

    Runs lie beside it, in a hidden folder that goes when all is done: the same call again goes on from there.
    Raises UserError for what the user can mend.
    """
    if out.is_dir():  # said before anything is trained
        raise StorageError(f"{out}: is a folder; name the file to write, say {out / 'program.safetensors'}")
    runtime = runtimes.choose(device, settings.precision)
    task = task.to(runtime.device)
    folder = out.parent / f".{out.stem}.fit"
    place = grid.Place(folder, device=device, watchers=watchers)
    config = configure(task, settings, runtime.precision)
    config = replace(config, **_schedule(config, task, settings, folder, runtime))
    program, result = _sweep(f"{settings.backbone}, {settings.weights}", config, task, settings, place)
    controls: list[Result] = []
    if settings.controls:
        # what a random body has none of is the point: it starts from nothing
        others = {"the same body, random": {"weights": "random"}, "no body": {"backbone": "none", "layers": None}}
        if settings.weights == "random":
            del others["the same body, random"]
        for name, changes in others.items():
            changed = replace(config, **{"weights": "random", "start": None, **changes})
            controls.append(_sweep(name, changed, task, settings, place)[1])
        base = fit_baseline(task, task.test_splits[0])
        controls.append(Result(base.name, task.metric(base.logits, base.targets), base.validation, base.seconds))
    found = {"result": result.summary(), "controls": {each.name: each.summary() for each in controls}}
    # the sweep may have been scored on a few test rows only
    metrics = {**program.metrics, task.test_splits[0]: result.metric}
    program = replace(program, metrics=metrics, extra={**program.extra, **(extra or {}), **found})
    program.save(out)
    shutil.rmtree(folder, ignore_errors=True)
    return Fitted(program, result, tuple(controls), task.metric_name)


def configure(task: OwnTask, settings: FitSettings, precision: str) -> RunConfig:
    """The runs' configuration, but for how long they train. Raises ConfigError for settings that train nothing."""
    if not settings.lrs or not settings.seeds:
        raise ConfigError("fit: expected at least one learning rate and one seed, found none")
    if not settings.minutes > 0:
        raise ConfigError(f"minutes: expected more than 0, found {settings.minutes:g}")
    fair = PROTOCOLS["fair"]
    return RunConfig(
        task=task.name,
        task_options={"data": task.data.get("sha256", "")},
        steps=1,
        batch_size=min(settings.batch_size, task.split_size("train")),
        lr=settings.lrs[0],
        backbone=settings.backbone,
        weights=settings.weights,
        layers=settings.layers,
        precision=precision,
        schedule=fair.schedule,
        warmup=fair.warmup,
        dropout=fair.dropout,
        lr_factors=fair.lr_factors,
        patience=PATIENCE,
        start=settings.start,
    )


def _schedule(
    config: RunConfig, task: OwnTask, settings: FitSettings, folder: Path, runtime: runtimes.Runtime
) -> dict[str, Any]:
    """Steps and validations that fit the minutes; what was once decided stays, so that a second call goes on."""
    decided = folder / "schedule.json"
    wanted = {"minutes": settings.minutes, "steps": settings.steps, "config": config.run_id}
    held = _read(decided)
    if held.get("wanted") == wanted:
        return held["schedule"]
    schedule: dict[str, Any] = {"steps": settings.steps, "eval_examples": min(EXAMPLES, task.split_size("val"))}
    if settings.steps is None:
        schedule = affordable(config, task, settings, runtime)
    schedule["eval_every"] = math.ceil(schedule["steps"] / VALIDATIONS)
    write_json(decided, {"wanted": wanted, "schedule": schedule})
    return schedule


def affordable(
    config: RunConfig, task: OwnTask, settings: FitSettings, runtime: runtimes.Runtime
) -> dict[str, int | None]:
    """Steps and scored examples of the whole sweep that fit `settings.minutes` here, by the time of a few.

    At most EPOCHS epochs. Every run is scored on the whole splits if that takes no more than a third of the
    time, else on as few examples as a validation has; the best one always is.
    """
    epochs = math.ceil(EPOCHS * task.split_size("train") / config.batch_size)
    most = max(FEWEST_STEPS, epochs)
    runs = grid.expand(replace(config, steps=most), settings.lrs, settings.seeds)
    with tempfile.TemporaryDirectory() as folder:
        trial = Pack(task, grid.body_of(config), runs, Execution(Path(folder), runtime, compile=False))
        trial.train_step()
        clock = time.perf_counter()
        for trial.step in (1, 2):
            trial.train_step()
        runtime.synchronize()
        step = (time.perf_counter() - clock) / 2
        rows = min(64, task.split_size("val"))
        clock = time.perf_counter()
        evaluate(trial.model, task, "val", rows)
        row = (time.perf_counter() - clock) / rows
    seconds = settings.minutes * 60 * (1 - RESERVE)
    # the whole validation split where it is small: its noise chooses the learning rate
    allowed = max(FEWEST_EXAMPLES, seconds / 3 / (VALIDATIONS * row))
    examples = int(min(EXAMPLES, task.split_size("val"), allowed))
    sizes = [task.split_size(split) for split in dict.fromkeys(("val", *task.test_splits))]
    few = sum(sizes) * row > seconds / 3
    final = sum(min(size, examples) if few else size for size in sizes) + sizes[-1] / len(runs)
    left = seconds - (VALIDATIONS * examples + final) * row
    steps = int(min(most, max(FEWEST_STEPS // 10, left / step)))
    return {"steps": steps, "eval_examples": examples, "test_examples": examples if few else None}


def _sweep(
    name: str, config: RunConfig, task: OwnTask, settings: FitSettings, place: grid.Place
) -> tuple[Program, Result]:
    """The best program of a sweep by validation, and its result."""
    clock = time.perf_counter()
    summaries = grid.train(grid.expand(config, settings.lrs, settings.seeds), place, task)
    known = [summary for summary in summaries if summary["val_metric"] is not None]
    if not known:
        rates = ", ".join(f"{lr:g}" for lr in settings.lrs)
        raise UserError(f"{name}: training diverged at every learning rate ({rates}); give lower ones with --lr")
    best = max(known, key=lambda summary: summary["val_metric"])
    seconds = time.perf_counter() - clock
    chosen = replace(config, lr=best["lr"], seed=best["seed"])
    folder = RunFolder(place.out, chosen)
    model, _ = grid.open_run(folder.path, device=place.device, task=task)
    logits, targets = predict(model, task, task.test_splits[0])
    scores = task.metric(logits[0], targets)
    program = Program.load(folder.program_path)
    return program, Result(name, scores, best["val_metric"], seconds, best["lr"], best["seed"], best["best_step"])


def verdict(result: Result, controls: Sequence[Result], metric: str = "accuracy") -> str:
    """In a sentence, whether the body did anything: differences to the controls, paired over the same examples."""
    words = _of_r2 if metric == "r2" else _points
    body = next((c for c in controls if c.name == "the same body, random"), None)
    parts = []
    if body is not None:
        gap, error = difference(result, body)
        if gap > 2 * error:
            parts.append(f"The pretrained body helped: {words(gap, error)} above the same body with random weights.")
        elif gap < -2 * error:
            parts.append(f"The pretrained body hurt: {words(-gap, error)} below the same body with random weights.")
        else:
            parts.append(
                f"The pretrained body made no difference that {counted(len(result.scores), 'example')} could show: "
                f"{words(gap, error)} against the same body with random weights."
            )
    rest = [control for control in controls if control is not body]
    if rest:
        best = max(rest, key=lambda control: control.metric)
        gap, error = difference(result, best)
        if gap > 2 * error:
            parts.append(f"It beats {best.name}, the best of the plain ones, by {words(gap, error)}.")
        elif gap < -2 * error:
            parts.append(f"{best.name.capitalize()} is better than any of it, by {words(-gap, error)}: use that.")
        else:
            parts.append(f"{best.name.capitalize()} does as well ({words(gap, error)}), and costs less.")
    return " ".join(parts)


def difference(one: Result, other: Result) -> tuple[float, float]:
    """Difference of two results' metrics and its standard error, paired over the examples."""
    gaps = (one.scores - other.scores).double()
    error = float(gaps.std() / math.sqrt(len(gaps))) if len(gaps) > 1 else math.inf
    return float(gaps.mean()), error


def _points(gap: float, error: float) -> str:
    return f"{100 * gap:+.1f} ± {100 * error:.1f} points"


def _of_r2(gap: float, error: float) -> str:
    return f"{gap:+.3f} ± {error:.3f} of R²"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
