"""The time budget: minutes decide how many steps are trained and how many rows are scored."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icecore import user_data
from icecore.autofit import closed_form, time_budget
from icecore.autofit.fit import base_config, fit
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.time_budget import measure_affordable, plan_training
from icecore.core.config import RunConfig
from icecore.training.context import ExecutionContext
from icecore.user_data import UserTask


@pytest.fixture
def settings(bodies: Mapping[str, str]) -> FitSettings:
    return FitSettings(backbone=bodies["bert"], lrs=(1e-2, 3e-2), batch_size=16)


@pytest.fixture
def context(tmp_path: Path) -> ExecutionContext:
    return ExecutionContext(tmp_path, device="cpu")


def build_task(rows: int) -> UserTask:
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    return user_data.from_arrays(x, (x[:, 0] > 0).astype(int)).task()


def test_minutes_bound_the_time(settings: FitSettings, context: ExecutionContext) -> None:
    task = build_task(240)
    config = base_config(task, settings, "fp32")
    few, many = (measure_affordable(config, task, replace(settings, minutes=m), context) for m in (1e-6, 100))
    assert task.split_size("val") == 36
    # 60 epochs of 168 rows, in smaller batches where the time is short
    assert task.split_size("train") == 168
    assert few.pop("minutes") < 1 / 60
    assert few == {"steps": 1260, "batch_size": 8, "eval_every": 252, "eval_examples": 36, "test_examples": 36}
    assert 99 < many.pop("minutes") < 100
    assert many == {"steps": 630, "batch_size": 16, "eval_every": 32, "eval_examples": 36, "test_examples": None}


def test_what_is_spent_is_no_longer_there(settings: FitSettings, context: ExecutionContext) -> None:
    task = build_task(240)
    config = base_config(task, settings, "fp32")
    plan = measure_affordable(config, task, replace(settings, minutes=100), context, spent=5400)
    assert 9 < plan["minutes"] < 10


@pytest.mark.parametrize("rows", [240, 3000])
def test_a_fit_takes_about_its_minutes(rows: int, settings: FitSettings, tmp_path: Path) -> None:
    """The start, the measurement, training and the final scores together; with more epochs than fit into the time."""
    settings = replace(settings, minutes=0.1)
    begun = time.perf_counter()
    fitted = fit(build_task(rows), settings, tmp_path / "a.safetensors", {}, "cpu")
    assert time.perf_counter() - begun < 6 * 1.2 + 1
    config = fitted.program.config
    assert config.minutes is not None
    assert (fitted.result.steps or 0) <= config.steps


def test_few_minutes_score_few_rows_of_a_large_split(settings: FitSettings, context: ExecutionContext) -> None:
    task = build_task(4000)
    config = base_config(task, settings, "fp32")
    plan = measure_affordable(config, task, replace(settings, minutes=1e-6), context)
    assert plan["eval_examples"] == plan["test_examples"] == 100


@pytest.mark.parametrize(("race", "batch_size"), [(False, 8), (True, 16)])
def test_batches_are_smaller_where_too_few_steps_fit(
    settings: FitSettings, context: ExecutionContext, monkeypatch: pytest.MonkeyPatch, race: bool, batch_size: int
) -> None:
    """A step of n rates takes n seconds here, and scoring nothing: ten minutes are 150 steps, or 307 in a race."""
    measured = []

    def measure(runs: list[RunConfig], *_: object) -> tuple[float, float]:
        measured.append(len(runs))
        return float(len({run.lr for run in runs})), 1e-9

    monkeypatch.setattr(time_budget, "_measure_seconds", measure)
    task = build_task(240)
    settings = replace(settings, lrs=(1e-4, 1e-3, 1e-2, 1e-1), seeds=(0, 1), minutes=10.0, race=race)
    plan = measure_affordable(base_config(task, settings, "fp32"), task, settings, context)
    assert measured == [8]
    assert plan["batch_size"] == batch_size


def test_steps_are_not_measured_if_they_are_given(
    settings: FitSettings, context: ExecutionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(time_budget, "measure_affordable")
    task = build_task(240)
    config = base_config(task, settings, "fp32")
    plan = plan_training(config, task, replace(settings, steps=50, closed_form=False), context)
    assert plan == {"steps": 50, "eval_examples": 36, "eval_every": 3}


def test_the_start_is_part_of_the_plan(settings: FitSettings, context: ExecutionContext) -> None:
    task = build_task(240)
    plan = plan_training(base_config(task, settings, "fp32"), task, replace(settings, steps=50), context)
    assert plan["output_start"] == "ridge"
    assert plan["input_scale"] in closed_form.INPUT_SCALES
    assert plan["start_examples"] == task.split_size("train")


def test_a_plan_is_measured_once(
    settings: FitSettings, context: ExecutionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build_task(240)
    config = base_config(task, settings, "fp32")
    settings = replace(settings, closed_form=False)
    measured = iter([{"steps": 77, "eval_examples": 5}, {"steps": 99, "eval_examples": 5}])
    monkeypatch.setattr(time_budget, "measure_affordable", lambda *_, **__: next(measured))
    first, again = (plan_training(config, task, settings, context) for _ in range(2))
    assert first == again == {"steps": 77, "eval_examples": 5}
    changed = plan_training(config, task, replace(settings, minutes=9.0), context)
    assert changed["steps"] == 99
    for path in context.out.glob("schedule-*.json"):
        path.write_text("damaged")
    measured = iter([{"steps": 11, "eval_examples": 5}])
    assert plan_training(config, task, settings, context)["steps"] == 11
