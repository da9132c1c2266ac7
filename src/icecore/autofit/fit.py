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

import numpy as np
import torch
from torch import Tensor

from icecore.autofit.baseline import fit_baseline
from icecore.core.config import PROTOCOLS, RunConfig
from icecore.core.device import Runtime, select_runtime
from icecore.core.errors import ConfigError, StorageError, UserError
from icecore.core.storage import write_json
from icecore.core.text import pluralize
from icecore.experiments import sweep
from icecore.model.program import Program, load_programs
from icecore.training.checkpoint import RunFolder
from icecore.training.evaluation import evaluate, predict
from icecore.training.execution import Callback, Execution, pays_to_compile
from icecore.training.loop import Pack
from icecore.user_data import UserTask

#: swept unless told otherwise: half a decade apart around what suits most tasks
LRS = (3e-4, 1e-3, 3e-3, 1e-2)
#: validations of a training; it stops after so many without improvement, but not while the rate is still high
VALIDATIONS, EARLY_STOPPING_PATIENCE = 20, 10
#: an epoch more teaches a frozen body little; small sets get at least so many steps
EPOCHS, FEWEST_STEPS = 60, 200
#: examples of a validation, at most, and at least where there are so many, however few the minutes
EXAMPLES, FEWEST_EXAMPLES = 1000, 100
#: share of the minutes that is left for the final scores
RESERVE = 0.15
#: scored rows below which no standard error can be trusted
FEWEST_ROWS = 10
#: Student's t, two-sided at 5 %, by 1 / degrees of freedom: a spread known from three seeds is itself a guess
STUDENT = (0, 1 / 30, 1 / 10, 1 / 5, 1 / 4, 1 / 3, 1 / 2, 1), (2.0, 2.04, 2.23, 2.57, 2.78, 3.18, 4.30, 12.71)
#: the control that is the body without what it has learned
RANDOM = "the same body, random"


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

    scores       (N,) the metric of each example, of the training that validation finds best; its mean is the metric
    trainings    (S, N) the same of each seed at one rate, chosen by mean validation; None for what no seed changes
    seeds, rate  these seeds, and that rate
    """

    name: str
    scores: Tensor
    validation: float
    seconds: float
    lr: float | None = None
    seed: int | None = None
    steps: int | None = None
    trainings: Tensor | None = None
    seeds: tuple[int, ...] = ()
    rate: float | None = None

    @property
    def metric(self) -> float:
        """Mean over the examples, of the best training."""
        return float(self.scores.double().mean())

    @property
    def each(self) -> Tensor:
        """Scores (S, N) of every seed's training, float64; S = 1 where there is one."""
        return (self.scores[None] if self.trainings is None else self.trainings).double()

    @property
    def mean(self) -> float:
        """The metric, its mean over seeds."""
        return float(self.each.mean())

    @property
    def variance(self) -> float | None:
        """Of the mean over seeds: what the choice of seeds adds. None where one training says nothing about it."""
        if self.trainings is None:
            return 0.0
        metrics = self.each.mean(1)
        return float(metrics.var() / len(metrics)) if len(metrics) > 1 else None

    def summary(self) -> dict[str, Any]:
        """The numbers, for a program's header."""
        known: dict[str, Any] = {"metric": self.metric, "validation": self.validation, "examples": len(self.scores)}
        known |= {"lr": self.lr, "seed": self.seed, "steps": self.steps, "seconds": round(self.seconds, 1)}
        if len(self.seeds) > 1:
            known |= {"seeds": list(self.seeds), "seeds_lr": self.rate}
            known |= {"seeds_mean": self.mean, "seeds_error": math.sqrt(self.variance or 0.0)}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Fitted:
    """A fitted program, its result and those of the controls, and what they say in a sentence.

    rows  of which split the results are: "test", or "validation" where there are no test rows
    """

    program: Program
    result: Result
    controls: tuple[Result, ...] = ()
    metric_name: str = "accuracy"
    rows: str = "test"

    @property
    def verdict(self) -> str:
        """Whether the body did anything, in a few sentences; empty without controls."""
        return verdict(self.result, self.controls, self.metric_name, self.rows) if self.controls else ""


def fit(
    task: UserTask,
    settings: FitSettings,
    out: Path,
    extra: dict[str, Any] | None = None,
    device: str = "auto",
    watchers: Sequence[Callback] = (),
) -> Fitted:
    """Train programs for `task` and write the best one, with `extra` in its header, to `out`.

    Runs lie beside it, in a hidden folder that goes when all is done: the same call again goes on from there.
    Raises UserError for what the user can mend.
    """
    if out.is_dir():  # said before anything is trained
        raise StorageError(f"{out}: is a folder; name the file to write, say {out / 'program.safetensors'}")
    runtime = select_runtime(device, settings.precision)
    task = task.to(runtime.device)
    folder = out.parent / f".{out.stem}.fit"
    place = sweep.Place(folder, device=device, watchers=watchers)
    config = configure(task, settings, runtime.precision)
    config = replace(config, **_schedule(config, task, settings, folder, runtime))
    program, result = _sweep(f"{settings.backbone}, {settings.weights}", config, task, settings, place)
    controls: list[Result] = []
    if settings.controls:
        # what a random body has none of is the point: it starts from nothing
        others = {RANDOM: {"weights": "random"}, "no body": {"backbone": "none", "layers": None}}
        if settings.weights == "random":
            del others[RANDOM]
        for name, changes in others.items():
            changed = replace(config, **{"weights": "random", "start": None, **changes})
            controls.append(_sweep(name, changed, task, settings, place)[1])
        base = fit_baseline(task, task.test_splits[0])
        controls.append(Result(base.name, task.metric(base.logits, base.targets), base.validation, base.seconds))
    rows = "test" if task.test_splits[0] == "test" else "validation"
    fitted = Fitted(program, result, tuple(controls), task.metric_name, rows)
    found: dict[str, Any] = {"result": result.summary(), "controls": {each.name: each.summary() for each in controls}}
    if controls:
        found["verdict"] = fitted.verdict
    # the sweep may have been scored on a few test rows only
    metrics = {**program.metrics, task.test_splits[0]: result.metric}
    program = replace(program, metrics=metrics, extra={**program.extra, **(extra or {}), **found})
    program.save(out)
    shutil.rmtree(folder, ignore_errors=True)
    return replace(fitted, program=program)


def configure(task: UserTask, settings: FitSettings, precision: str) -> RunConfig:
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
        patience=EARLY_STOPPING_PATIENCE,
        start=settings.start,
    )


def _schedule(
    config: RunConfig, task: UserTask, settings: FitSettings, folder: Path, runtime: Runtime
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


def affordable(config: RunConfig, task: UserTask, settings: FitSettings, runtime: Runtime) -> dict[str, int | None]:
    """Steps and scored examples of the whole sweep that fit `settings.minutes` here, by the time of a few.

    At most EPOCHS epochs. Every run is scored on the whole splits if that takes no more than a third of the
    time, else on as few examples as a validation has; the best one and those of the mean over seeds always are.
    """
    epochs = math.ceil(EPOCHS * task.split_size("train") / config.batch_size)
    most = max(FEWEST_STEPS, epochs)
    runs = sweep.expand_sweep(replace(config, steps=most), settings.lrs, settings.seeds)
    with tempfile.TemporaryDirectory() as folder:
        trial = Pack(task, sweep.load_body(config), runs, Execution(Path(folder), runtime, compile=False))
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
    seeds = len(set(settings.seeds))
    final = sum(min(size, examples) if few else size for size in sizes)
    final += sizes[-1] * (seeds + (seeds > 1)) / len(runs)
    left = seconds - (VALIDATIONS * examples + final) * row
    steps = int(min(most, max(FEWEST_STEPS // 10, left / step)))
    return {"steps": steps, "eval_examples": examples, "test_examples": examples if few else None}


def _sweep(
    name: str, config: RunConfig, task: UserTask, settings: FitSettings, place: sweep.Place
) -> tuple[Program, Result]:
    """The best program of a sweep by validation, and its result."""
    clock = time.perf_counter()
    summaries = sweep.train_runs(sweep.expand_sweep(config, settings.lrs, settings.seeds), place, task)
    known = [summary for summary in summaries if summary["val_metric"] is not None]
    if not known:
        rates = ", ".join(f"{lr:g}" for lr in settings.lrs)
        raise UserError(f"{name}: training diverged at every learning rate ({rates}); give lower ones with --lr")
    # by the rule that chooses the rate: of one seed, the best run is the one at the chosen rate
    best = min(known, key=lambda summary: (-summary["val_metric"], summary["best_step"], summary["lr"]))
    rate = sweep.summarize_runs(known)["chosen_lr"]
    alike = [summary for summary in known if summary["lr"] == rate]
    seconds = time.perf_counter() - clock
    wanted = alike if best in alike else [*alike, best]
    chosen = [replace(config, lr=summary["lr"], seed=summary["seed"]) for summary in wanted]
    programs = [Program.load(RunFolder(place.out, each).program_path) for each in chosen]
    scores = _scores(programs, config, task, place)
    at, S = wanted.index(best), len(alike)
    about = best["val_metric"], seconds, best["lr"], best["seed"], best["best_step"]
    return programs[at], Result(name, scores[at], *about, scores[:S], tuple(each.seed for each in chosen[:S]), rate)


def _scores(programs: Sequence[Program], config: RunConfig, task: UserTask, place: sweep.Place) -> Tensor:
    """The metric (R, N) of each program for each example of the scored split."""
    split = task.test_splits[0]
    runtime = select_runtime(place.device, config.precision)
    model = load_programs(programs, sweep.load_body(config), runtime.precision).to(runtime.device)
    model.backbone.axis.compiled = pays_to_compile(model, task.split_size(split), training=False)
    logits, targets = predict(model, task, split)
    return torch.stack([task.metric(each, targets) for each in logits])


@dataclass(frozen=True)
class Difference:
    """How far one result's mean is above another's.

    error   its standard error, of the scored rows and, where both know it, of the seeds
    bound   as many of these may be chance (Welch's test at 5 %)
    seeded  the seeds' share is in it
    """

    gap: float
    error: float
    bound: float
    seeded: bool

    @property
    def side(self) -> int:
        """1 where the first is clearly above, -1 below, 0 where it may be chance."""
        return int(np.sign(self.gap)) if abs(self.gap) > self.bound * self.error else 0


def difference(one: Result, other: Result) -> Difference:
    """Of two results' metrics, over seeds where there are several, and paired over the examples."""
    a, b = one.each, other.each
    gaps = a.mean(0) - b.mean(0)
    rows = float(gaps.var() / len(gaps)) if len(gaps) > 1 else math.inf
    parts = [(rows, len(gaps) - 1)]
    seeded = one.variance is not None and other.variance is not None
    if seeded:
        parts += [(result.variance or 0.0, len(result.each) - 1) for result in (one, other)]
    total = sum(part for part, _ in parts)
    # Welch and Satterthwaite: by 1 / degrees of freedom, so that what does not vary has no say
    inverse = sum((part / total) ** 2 / freedom for part, freedom in parts if part) if 0 < total < math.inf else 0.0
    return Difference(float(gaps.mean()), math.sqrt(total), float(np.interp(inverse, *STUDENT)), seeded)


def verdict(result: Result, controls: Sequence[Result], metric: str = "accuracy", rows: str = "test") -> str:
    """In a few sentences, whether the body did anything, and what the error given with it covers."""
    N = len(result.scores)
    if N < FEWEST_ROWS:
        return f"Too few {rows} rows ({N}) for a verdict."
    body = next((control for control in controls if control.name == RANDOM), None)
    plain = max((control for control in controls if control is not body), key=lambda c: c.mean, default=None)
    rivals = [control for control in (body, plain) if control is not None]
    found = [difference(result, rival) for rival in rivals]
    if not all(math.isfinite(each.gap) and math.isfinite(each.error) for each in found):
        return "No verdict: some scores are not finite."
    seeded = all(each.seeded for each in found)
    shown = pluralize(N, f"{rows} row")
    parts = [
        _on_body(each, metric, shown, seeded) if rival is body else _on_plain(each, metric, rival.name, seeded)
        for rival, each in zip(rivals, found, strict=True)
    ]
    if not seeded:
        first = "In this one training of each" if len(result.each) == 1 else "In these trainings"
        often = "trainings of one body with other seeds differ too, often by as much"
        parts[0] = f"{first}, {parts[0]}"
        parts.append(f"± counts {rows} rows only: {often}; --seeds 0,1,2 counts that as well.")
    else:
        parts.append(f"Means over {pluralize(len(result.each), 'seed')}; ± counts seeds and {rows} rows.")
    return " ".join(part[:1].upper() + part[1:] for part in parts)


def _on_body(found: Difference, metric: str, shown: str, seeded: bool) -> str:
    gap, against = _amount(found, metric), "the same body with random weights"
    if not found.side:
        return f"the pretrained body made no difference that {shown} could show: {gap} against {against}."
    says, where = ("helped:", "above") if found.side > 0 else ("hurt:", "below")
    return f"the pretrained body {says if seeded else 'is'} {gap} {where} {against}."


def _on_plain(found: Difference, metric: str, name: str, seeded: bool) -> str:
    gap, best = _amount(found, metric), f"{name}, the best of the plain ones"
    if not found.side:
        return f"it is not clearly better than {best} ({gap}), which costs less."
    if found.side < 0:
        return f"{best}, is {gap} above it{': use that' if seeded else ''}."
    return f"it beats {best}, by {gap}." if seeded else f"it is {gap} above {best}."


def _amount(found: Difference, metric: str) -> str:
    """The difference and its error; without a sign where words say which is above."""
    gap = abs(found.gap) if found.side else found.gap
    sign = "" if found.side else "+"
    if metric == "r2":
        return f"{gap:{sign}.3f} ± {found.error:.3f} of R²"
    return f"{100 * gap:{sign}.1f} ± {100 * found.error:.1f} points"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
