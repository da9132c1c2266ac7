"""Fit a program to your own data without tuning, and train controls that show whether the pretrained body helped.

A fit is one packed sweep over learning rates, which stops early by validation and takes about the minutes given.
The controls get the same budget: a random body, no body, and models of scikit-learn.
"""

import contextlib
import glob
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icecore.autofit.baseline import BASELINE_NEEDS, fit_baseline
from icecore.autofit.closed_form import Gain, start_program
from icecore.autofit.comparison import NO_BODY_CONTROL, RANDOM_BODY, verdict
from icecore.autofit.fit_result import FitResult, ModelResult
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.row_digests import sample_digests
from icecore.autofit.time_budget import plan_file, plan_training
from icecore.core.config import LOSS, RunConfig
from icecore.core.device import select_runtime
from icecore.core.errors import BusyError, StorageError, UserError
from icecore.core.extras import require_packages
from icecore.core.protocols import PROTOCOLS
from icecore.core.storage import file_lock, sweep_temporaries
from icecore.experiments import sweep
from icecore.model.loading import load_programs
from icecore.model.program import Program
from icecore.training.callbacks import Callback
from icecore.training.checkpoint import RunFolder, validation_curve
from icecore.training.compilation import pays_to_compile
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import predict
from icecore.training.run_summary import BEHIND, COMPLETED, DIVERGED, RunSummary
from icecore.user_data import UserTask

#: validations without improvement after which a run stops, but not while its learning rate is still high
EARLY_STOPPING_PATIENCE = 10
PROTOCOL = "fair"
#: a run that stopped early after fewer steps was stopped by the time rather than by what it had learned
FEW_STEPS = 50


def fit(
    task: UserTask,
    settings: FitSettings,
    out: Path,
    extra: dict[str, Any] | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> FitResult:
    """Train programs for `task` and write the best one to `out`, with `extra` in its header.

    clock  seconds by which the minutes are counted

    The runs are kept beside `out` in a hidden folder, and are removed at the end: if a fit is interrupted, the same
    call continues it. Raises BusyError if another process is fitting the same file, and UserError, with a remedy, for
    mistakes in settings and data.
    """
    if out.is_dir():  # checked here so that no training is lost
        raise StorageError(f"{out} is a folder. Name the file to write, for example {out / 'program.safetensors'}.")
    if settings.controls:
        require_packages(*BASELINE_NEEDS)
    with file_lock(out.with_name(f".{out.name}.lock"), wait=False, remove=True) as is_alone:
        if not is_alone:
            raise BusyError(f"Another process is fitting {out}. Wait until it ends, or name another file to write.")
        return _fit_alone(
            task, settings, out, extra or {}, ExecutionContext(device=device, callbacks=callbacks, clock=clock)
        )


def _fit_alone(
    task: UserTask, settings: FitSettings, out: Path, extra: dict[str, Any], context: ExecutionContext
) -> FitResult:
    """What `fit` does while no other process fits the same file."""
    # the whole name, because files of one stem may be fitted at the same time
    context = replace(context, out=out.with_name(f".{out.name}.fit"))
    sweep_temporaries(out)
    for leftover in out.parent.glob(f"{glob.escape(context.out.name)}.*.removed"):
        shutil.rmtree(leftover, ignore_errors=True)
    runtime = select_runtime(context.device, settings.precision)
    task = task.to(runtime.device)
    context = replace(context, race=settings.race)
    config = base_config(task, settings, runtime.precision)
    used: set[str] = set()
    program, result = _train_sweep(f"{settings.backbone}, {settings.weights}", config, task, settings, context, used)
    controls = tuple(_train_controls(config, task, settings, context, used)) if settings.controls else ()
    split = "test" if task.test_splits[0] == "test" else "validation"
    sentences = verdict(result, controls, task.metric_name, split) if controls else ""
    header = {"result": result.summary(), "controls": {control.name: control.summary() for control in controls}}
    # during the sweep, the run may have been scored on a part of the test rows only
    metrics = {"val": result.val_metric, **program.metrics, task.test_splits[0]: result.metric}
    header |= {"verdict": sentences} if controls else {}
    train = task.splits["train"]
    header["training_rows"] = sample_digests(train.inputs, train.lengths)
    program = replace(program, metrics=metrics, extra={**program.extra, **extra, **header})
    program.save(out)
    _remove_runs(context.out, used)
    return FitResult(program, result, controls, task.metric_name, split, sentences)


def _remove_runs(folder: Path, names: Collection[str]) -> None:
    """Remove these runs and plans, and the folder if no other runs are in it, such as those of other settings.

    What is removed is renamed first: a run whose files are gone in part could be neither used nor trained again.
    """
    removed = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.removed")
    with contextlib.suppress(OSError):  # the program is written, and the next fit removes what is left
        if {path.name for path in folder.iterdir() if path.is_dir()} <= set(names):
            folder.rename(removed)
        else:
            removed.mkdir()
            for name in names:
                if (folder / name).exists():
                    (folder / name).rename(removed / name)
    shutil.rmtree(removed, ignore_errors=True)


def _is_cut_off(config: RunConfig, best: RunSummary) -> bool:
    """Whether the minutes ended a training, rather than its steps, a race or what it had learned."""
    if config.minutes is None or best.steps_done >= config.steps:
        return False
    return best.status == COMPLETED or best.steps_done < FEW_STEPS


def base_config(task: UserTask, settings: FitSettings, precision: str) -> RunConfig:
    """The configuration that all runs of a fit share, except for how long they train."""
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
        protocol=PROTOCOL,
        patience=EARLY_STOPPING_PATIENCE,
        tie_break=LOSS,
        start=settings.start,
        **PROTOCOLS[PROTOCOL].settings(),
    )


def _train_controls(
    config: RunConfig, task: UserTask, settings: FitSettings, context: ExecutionContext, used: set[str]
) -> Iterator[ModelResult]:
    """The results of a random body (unless the body is random itself), of no body, and of scikit-learn.

    The names of their runs and plans are added to `used`.
    """
    changes: dict[str, dict[str, Any]] = {RANDOM_BODY: {}, NO_BODY_CONTROL: {"backbone": "none", "layers": None}}
    if settings.weights == "random":
        del changes[RANDOM_BODY]
    for name, changed in changes.items():
        # a program to start from is part of what a control must do without
        control = replace(config, weights="random", start=None, **changed)
        yield _train_sweep(name, control, task, settings, context, used)[1]
    baseline = fit_baseline(task, task.test_splits[0])
    scores = task.metric(baseline.logits, baseline.targets)
    yield ModelResult(baseline.name, scores, baseline.val_metric, baseline.seconds)


def _train_sweep(
    name: str, config: RunConfig, task: UserTask, settings: FitSettings, context: ExecutionContext, used: set[str]
) -> tuple[Program, ModelResult]:
    """Train every learning rate with every seed, except for those that fall behind in a race.

    Adds the names of runs and of their plan to `used`. Returns the program with the best validation metric, and its
    result.
    """
    start = time.perf_counter()
    plan_name = plan_file(config)
    config = replace(config, **plan_training(config, task, settings, context))
    runs = sweep.expand_sweep(config, settings.lrs, settings.seeds)
    used |= {run.run_id for run in runs} | {plan_name}
    summaries = sweep.train_runs(runs, context, task)
    finite = [summary for summary in summaries if summary.val_metric is not None and summary.status != BEHIND]
    if not finite:
        rates = ", ".join(f"{lr:g}" for lr in settings.lrs)
        raise UserError(f"{name}: training diverged at every learning rate ({rates}). Give lower ones with --lr.")
    best = _best_run(finite)
    lr = sweep.summarize_runs(summaries).chosen_lr
    at_lr = [summary for summary in finite if summary.lr == lr]
    scored = at_lr if best in at_lr else [*at_lr, best]
    states = [_keep(replace(config, lr=each.lr, seed=each.seed), each, task, context) for each in scored]
    has_test_rows = task.test_splits[0] != "val"
    scored_programs = [state.final if has_test_rows else state.program for state in states]
    logits, targets = _predict_with(scored_programs, config, task, context)
    scores = torch.stack([task.metric(each, targets) for each in logits])
    index, S = scored.index(best), len(at_lr)
    result = ModelResult(
        name,
        scores[index],
        states[index].val_metric,
        time.perf_counter() - start,
        lr=best.lr,
        seed=best.seed,
        best_step=states[index].step,
        steps=best.steps_done,
        is_cut_off=_is_cut_off(config, best),
        seed_scores=scores[:S],
        seeds=tuple(each.seed for each in at_lr),
        seeds_lr=lr,
        seed_val_metrics=tuple(state.val_metric for state in states[:S]),
        logits=logits[index],
        targets=targets,
        curves=_curves(config, best, summaries, context),
    )
    return states[index].final, result


def _best_run(summaries: Sequence[RunSummary]) -> RunSummary:
    """The run with the best validation metric, one that diverged only if there is no other.

    The order is that of `summarize_runs`: with one seed, the best run is the one at the chosen learning rate.
    """
    candidates = [summary for summary in summaries if summary.status != DIVERGED] or summaries
    return min(candidates, key=lambda summary: (-(summary.val_metric or 0.0), summary.best_step, summary.lr))


@dataclass(frozen=True)
class _KeptState:
    """The state of a run that is kept: its program, after how many steps it was, and its validation metric.

    final  what is written: a start is solved again with the validation rows, which have done their work
    """

    program: Program
    step: int
    val_metric: float
    final: Program


def _keep(config: RunConfig, summary: RunSummary, task: UserTask, context: ExecutionContext) -> _KeptState:
    """The best state of a run, or its start if training did not make that clearly better."""
    trained = Program.load(RunFolder(context.out, config).program_path)
    step, val_metric, kept = summary.best_step, summary.val_metric or 0.0, trained
    if config.output_start is not None and step:
        start = start_program(config, task, context)
        gain = Gain.over_start(trained, start, task, context)
        if not gain.is_clear:
            step, val_metric, kept = 0, gain.start_metric, start
    if config.output_start is None or step:
        return _KeptState(kept, step, val_metric, kept)
    return _KeptState(kept, step, val_metric, start_program(config, task, context, ("train", "val")))


def _curves(
    config: RunConfig, best: RunSummary, summaries: Sequence[RunSummary], context: ExecutionContext
) -> dict[float, list[tuple[int, float]]]:
    """Validation metric over steps of the best run's seed, by learning rate."""
    curves: dict[float, list[tuple[int, float]]] = {}
    for each in summaries:
        if each.seed == best.seed:
            folder = RunFolder(context.out, replace(config, lr=each.lr, seed=each.seed))
            curves[each.lr] = validation_curve(folder.events())
    return curves


def _predict_with(
    programs: Sequence[Program], config: RunConfig, task: UserTask, context: ExecutionContext
) -> tuple[Tensor, Tensor]:
    """Logits (R, N, 1, C) of each of R programs for each row of the scored split, and its targets (N, 2, k)."""
    split = task.test_splits[0]
    runtime = context.runtime(config)
    model = load_programs(programs, context.backbone(config), runtime.precision).to(runtime.device)
    model.compiled = pays_to_compile(model, task.split_size(split), training=False)
    return predict(model, task, split)
