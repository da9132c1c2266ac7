"""How long a fit trains: the steps and the scored rows that fit into the user's minutes, measured on a few steps."""

import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from icecore.autofit.fit_settings import FitSettings
from icecore.core.config import RunConfig
from icecore.core.limits import read_small
from icecore.core.storage import write_json
from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate
from icecore.training.loop import Pack
from icecore.training.racing import race_cost
from icecore.user_data import UserTask

VALIDATIONS_PER_RUN = 20
#: more epochs than this teach a frozen body little; small data sets may still get `MIN_STEP_LIMIT` steps
MAX_EPOCHS, MIN_STEP_LIMIT = 60, 200
#: steps of each run, even if the minutes are too few for them
MIN_STEPS = 20
#: rows of a validation: at most, and at least (if there are so many), even if the minutes are too few
MAX_VALIDATION_ROWS, MIN_VALIDATION_ROWS = 1000, 100
#: share of the minutes that is kept for the final scores
FINAL_SCORE_SHARE = 0.15


def plan_training(
    config: RunConfig, task: UserTask, settings: FitSettings, context: ExecutionContext
) -> dict[str, Any]:
    """The settings of `RunConfig` that say how long runs train and how many rows score them.

    The plan is kept in `context.out`, because a repeated measurement would differ and start other runs.
    """
    path = context.out / "schedule.json"
    request = {"minutes": settings.minutes, "steps": settings.steps, "config": config.run_id, "race": settings.race}
    stored = _read_json(path)
    if stored.get("wanted") == request and _is_schedule(stored.get("schedule")):
        return stored["schedule"]
    if settings.steps is None:
        plan: dict[str, Any] = measure_affordable(config, task, settings, context)
    else:
        plan = {"steps": settings.steps, "eval_examples": min(MAX_VALIDATION_ROWS, task.split_size("val"))}
    plan["eval_every"] = math.ceil(plan["steps"] / VALIDATIONS_PER_RUN)
    write_json(path, {"wanted": request, "schedule": plan})
    return plan


def measure_affordable(
    config: RunConfig, task: UserTask, settings: FitSettings, context: ExecutionContext
) -> dict[str, int | None]:
    """Steps and scored rows with which the whole sweep takes `settings.minutes`, from the time of a few steps.

    Runs train for at most `MAX_EPOCHS` epochs. Every run is scored on the whole splits if that takes at most a third
    of the time, otherwise on as many rows as a validation. The best run, and the runs that the mean over seeds
    consists of, are always scored on the whole split. With `settings.race`, learning rates that fall behind stop early
    and are not scored, so the others train for more steps.
    """
    epochs = math.ceil(MAX_EPOCHS * task.split_size("train") / config.batch_size)
    max_steps = max(MIN_STEP_LIMIT, epochs)
    runs = sweep.expand_sweep(replace(config, steps=max_steps), settings.lrs, settings.seeds)
    train, score, final = _measure_sweep(runs, task, settings.race, context)
    seconds = settings.minutes * 60 * (1 - FINAL_SCORE_SHARE)
    # a small validation split is used whole, because its noise decides which learning rate is chosen
    affordable_rows = max(MIN_VALIDATION_ROWS, seconds / 3 / (VALIDATIONS_PER_RUN * score))
    rows = int(min(MAX_VALIDATION_ROWS, task.split_size("val"), affordable_rows))
    sizes = [task.split_size(split) for split in dict.fromkeys(("val", *task.test_splits))]
    subsample = sum(sizes) * final > seconds / 3
    final_rows = sum(min(size, rows) if subsample else size for size in sizes)
    seeds = len(set(settings.seeds))
    final_rows += sizes[-1] * (seeds + (seeds > 1)) / (seeds if settings.race else len(runs))
    training_seconds = seconds - VALIDATIONS_PER_RUN * rows * score - final_rows * final
    steps = int(min(max_steps, max(MIN_STEPS, training_seconds / train)))
    return {"steps": steps, "eval_examples": rows, "test_examples": rows if subsample else None}


def _measure_sweep(
    runs: list[RunConfig], task: UserTask, race: bool, context: ExecutionContext
) -> tuple[float, float, float]:
    """Seconds of a sweep for a training step and for a row of a validation, on average, and for a row at the end.

    In a race, the time of a step is taken to be linear in the number of learning rates that are left.
    """
    all_step, all_row = _measure_seconds(runs, task, context)
    n = len({run.lr for run in runs})
    if not race or n == 1:
        return all_step, all_row, all_row
    one_step, one_row = _measure_seconds([run for run in runs if run.lr == runs[0].lr], task, context)
    # rates beyond the first, on average over the steps
    others = (race_cost(n) - 1) / (n - 1)
    step, row = (one + max(0.0, whole - one) * others for one, whole in ((one_step, all_step), (one_row, all_row)))
    return step, row, one_row


def _measure_seconds(runs: list[RunConfig], task: UserTask, context: ExecutionContext) -> tuple[float, float]:
    """Seconds that the pack of all runs takes for a training step, and for scoring one row."""
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(context, out=Path(folder), compile=False, callbacks=())
        pack = Pack(task, context.backbone(runs[0]), runs, trial)
        pack.train_step()  # the first step is slower than the others
        start = time.perf_counter()
        for step in (1, 2):
            pack.step = step
            pack.train_step()
        pack.runtime.synchronize()
        step_seconds = (time.perf_counter() - start) / 2
        rows = min(64, task.split_size("val"))
        start = time.perf_counter()
        evaluate(pack.model, task, "val", rows)
        return step_seconds, (time.perf_counter() - start) / rows


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or damaged."""
    try:
        values = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_schedule(values: Any) -> bool:
    """Whether a file's values can be those of `plan_training`."""
    names = ("steps", "eval_every", "eval_examples")
    return (
        isinstance(values, dict)
        and values.keys() <= {*names, "test_examples"}
        and all(type(values.get(name)) is int and values[name] > 0 for name in names)
        and type(values.get("test_examples", 1)) in (int, type(None))
    )
