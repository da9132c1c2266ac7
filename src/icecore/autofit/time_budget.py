"""How long a fit trains: the steps and the scored rows that fit into the user's minutes, measured on a few steps."""

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from icecore.autofit.closed_form import choose_start
from icecore.autofit.fit_settings import FitSettings
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError
from icecore.core.limits import read_small
from icecore.core.settings import check_types
from icecore.core.storage import write_json
from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate
from icecore.training.loop import Pack
from icecore.training.racing import race_cost
from icecore.user_data import UserTask

VALIDATIONS_PER_RUN, MIN_VALIDATIONS = 20, 5
#: seconds from which on a first step is measured alone, although it is slower than the others
LONG_STEP = 1.0
#: more epochs than this teach a frozen body little; small data sets may still get `MIN_STEP_LIMIT` steps
MAX_EPOCHS, MIN_STEP_LIMIT = 60, 200
#: share of the minutes in which the start is chosen
START_SHARE = 0.3
#: seconds that are planned for, however few the minutes are
MIN_SECONDS = 0.001
#: share of the time that training has, however long the final scores take
MIN_TRAINING_SHARE = 0.2
#: rows of a validation: at most, and at least (if there are as many), even if the minutes are too few
MAX_VALIDATION_ROWS, MIN_VALIDATION_ROWS = 1000, 100
#: the settings of `RunConfig` that a plan may hold
PLANNED = frozenset({"steps", "batch_size", "eval_every", "eval_examples", "test_examples", "minutes"}) | frozenset(
    {"output_start", "input_scale", "start_examples", "lr_factors"}
)


def plan_training(
    config: RunConfig, task: UserTask, settings: FitSettings, context: ExecutionContext
) -> dict[str, Any]:
    """The settings of `RunConfig` that say how runs start, how long they train and how many rows score them.

    The plan is kept in `context.out`, because a repeated measurement would differ and start other runs.
    """
    path = context.out / plan_file(config)
    request = {name: getattr(settings, name) for name in ("minutes", "steps", "race", "closed_form")}
    request |= {"lrs": list(settings.lrs), "seeds": list(settings.seeds)}
    stored = _read_json(path)
    if stored.get("wanted") == request and is_plan(stored.get("schedule")):
        return stored["schedule"]
    begun = context.clock()
    plan: dict[str, Any] = {}
    if settings.closed_form:
        # given steps are to give the same program on every machine
        seconds = START_SHARE * 60 * settings.minutes if settings.steps is None else None
        plan |= choose_start(config, task, context, seconds)
    if settings.steps is None:
        started = replace(config, **plan)
        plan |= measure_affordable(started, task, settings, context, spent=context.clock() - begun)
    else:
        plan |= {"steps": settings.steps, "eval_examples": min(MAX_VALIDATION_ROWS, task.split_size("val"))}
        plan["eval_every"] = math.ceil(settings.steps / VALIDATIONS_PER_RUN)
    write_json(path, {"wanted": request, "schedule": plan})
    return plan


def plan_file(config: RunConfig) -> str:
    """Name of the file with the plan of a sweep, given the configuration without it."""
    return f"schedule-{config.run_id}.json"


def measure_affordable(
    config: RunConfig, task: UserTask, settings: FitSettings, context: ExecutionContext, spent: float = 0.0
) -> dict[str, Any]:
    """Steps, time box and scored rows with which the sweep takes `settings.minutes`, from the time of a few steps.

    spent  seconds of the minutes that are over already

    Runs train for at most `MAX_EPOCHS` epochs, or until the time that the final scores leave is over: the schedule
    follows the clock, so a machine that is busier than now does not prolong the fit. Every run is scored on the whole
    splits if that takes at most a third of the time, otherwise on as many rows as a validation. The best run, and the
    runs that the mean over seeds consists of, are always scored on the whole split. With `settings.race`, learning
    rates that fall behind stop early and are not scored, so the others train for more steps.
    """
    begun = context.clock()
    runs = sweep.expand_sweep(config, settings.lrs, settings.seeds)
    train, score, final = _measure_sweep(runs, task, settings.race, context)
    seconds = max(MIN_SECONDS, settings.minutes * 60 - spent - (context.clock() - begun))
    # a small validation split is used whole, because its noise decides which learning rate is chosen
    affordable_rows = max(MIN_VALIDATION_ROWS, seconds / 3 / (VALIDATIONS_PER_RUN * score))
    rows = int(min(MAX_VALIDATION_ROWS, task.split_size("val"), affordable_rows))
    # where even few rows take long, they are scored less often
    validations = int(min(VALIDATIONS_PER_RUN, max(MIN_VALIDATIONS, seconds / 3 / (rows * score))))
    sizes = [task.split_size(split) for split in dict.fromkeys(("val", *task.test_splits))]
    subsample = sum(sizes) * final > seconds / 3
    final_rows = sum(min(size, rows) if subsample else size for size in sizes) + rows  # those of train as well
    seeds = len(set(settings.seeds))
    final_rows += sizes[-1] * (seeds + (seeds > 1)) / (seeds if settings.race else len(runs))
    final_seconds = final_rows * final
    if config.output_start is not None:  # it is solved once for training, and compared with the best states at the end
        final_seconds += 2 * seeds * (config.start_examples or 0) * final + 2 * task.split_size("val") * final
    training = max(seconds - final_seconds, MIN_TRAINING_SHARE * seconds)
    # half the rows take little more than half the time
    affordable = (training - validations * rows * score) / train
    batch_size = config.batch_size if affordable >= MIN_STEP_LIMIT else max(1, config.batch_size // 2)
    steps = max(MIN_STEP_LIMIT, math.ceil(MAX_EPOCHS * task.split_size("train") / batch_size))
    plan: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "eval_every": math.ceil(steps / validations)}
    plan |= {"minutes": max(1e-6, round(training / 60, 6)), "eval_examples": rows}
    return {**plan, "test_examples": rows if subsample else None}


def _measure_sweep(
    runs: list[RunConfig], task: UserTask, race: bool, context: ExecutionContext
) -> tuple[float, float, float]:
    """Seconds of a sweep for a training step and for a row of a validation, on average, and for a row at the end.

    In a race, the time of a step is taken to be proportional to the number of learning rates that are left.
    """
    all_step, all_row = _measure_seconds(runs, task, context)
    n = len({run.lr for run in runs})
    share = race_cost(n) / n if race else 1.0
    return share * all_step, share * all_row, all_row / n if race else all_row


def _measure_seconds(runs: list[RunConfig], task: UserTask, context: ExecutionContext) -> tuple[float, float]:
    """Seconds that the pack of all runs takes for a training step, and for scoring one row."""
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(context, out=Path(folder), compile=False, callbacks=())
        pack = Pack(task, context.backbone(runs[0]), runs, trial)

        def timed_step() -> float:
            start = context.clock()
            pack.train_step()
            pack.step += 1
            pack.runtime.synchronize()
            return context.clock() - start

        step_seconds = timed_step()
        if step_seconds < LONG_STEP:
            step_seconds = (timed_step() + timed_step()) / 2
        rows = min(64, task.split_size("val"))
        start = context.clock()
        evaluate(pack.model, task, "val", rows)
        return step_seconds, (context.clock() - start) / rows


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or damaged."""
    try:
        values = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def is_plan(values: Any) -> bool:
    """Whether a file's values can be those of `plan_training`."""
    if not isinstance(values, dict) or not {"steps", "eval_examples"} <= values.keys() <= PLANNED:
        return False
    try:
        check_types(RunConfig, values)
    except ConfigError:
        return False
    return all(value > 0 for value in values.values() if isinstance(value, int | float))
