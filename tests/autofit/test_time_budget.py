"""The time budget: minutes decide how many steps are trained and how many rows are scored."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icecore import user_data
from icecore.autofit import time_budget
from icecore.autofit.fit import base_config
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


def test_minutes_bound_the_steps(settings: FitSettings, context: ExecutionContext) -> None:
    task = build_task(240)
    config = base_config(task, settings, "fp32")
    few, many = (measure_affordable(config, task, replace(settings, minutes=m), context) for m in (1e-6, 100))
    assert task.split_size("val") == 36
    assert few == {"steps": 20, "eval_examples": 36, "test_examples": 36}
    # 60 epochs of 168 rows in batches of 16
    assert task.split_size("train") == 168
    assert many == {"steps": 630, "eval_examples": 36, "test_examples": None}


def test_few_minutes_score_few_rows_of_a_large_split(settings: FitSettings, context: ExecutionContext) -> None:
    task = build_task(4000)
    config = base_config(task, settings, "fp32")
    plan = measure_affordable(config, task, replace(settings, minutes=1e-6), context)
    assert plan["eval_examples"] == plan["test_examples"] == 100


@pytest.mark.parametrize(("race", "cost"), [(False, 4.0), (True, 0.4 + 3 * 0.15 + 2 * 0.35 + 0.4)])
def test_the_steps_of_a_race_fill_the_same_minutes(
    settings: FitSettings, context: ExecutionContext, monkeypatch: pytest.MonkeyPatch, race: bool, cost: float
) -> None:
    """A step of n rates takes 1 + n seconds here, and scoring nothing."""
    measured = []

    def measure(runs: list[RunConfig], *_: object) -> tuple[float, float]:
        measured.append(len(runs))
        return 1.0 + len({run.lr for run in runs}), 1e-9

    monkeypatch.setattr(time_budget, "_measure_seconds", measure)
    task = build_task(240)
    settings = replace(settings, lrs=(1e-4, 1e-3, 1e-2, 1e-1), seeds=(0, 1), minutes=10.0, race=race)
    plan = measure_affordable(base_config(task, settings, "fp32"), task, settings, context)
    assert measured == ([8, 2] if race else [8])
    assert plan["steps"] == pytest.approx(600 * 0.85 / (1 + cost), abs=1)


def test_steps_are_not_measured_if_they_are_given(
    settings: FitSettings, context: ExecutionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(time_budget, "measure_affordable")
    task = build_task(240)
    config = base_config(task, settings, "fp32")
    plan = plan_training(config, task, replace(settings, steps=50), context)
    assert plan == {"steps": 50, "eval_examples": 36, "eval_every": 3}


def test_a_plan_is_measured_once(
    settings: FitSettings, context: ExecutionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build_task(240)
    config = base_config(task, settings, "fp32")
    measured = iter([{"steps": 77, "eval_examples": 5}, {"steps": 99, "eval_examples": 5}])
    monkeypatch.setattr(time_budget, "measure_affordable", lambda *_: next(measured))
    first, again = (plan_training(config, task, settings, context) for _ in range(2))
    assert first == again == {"steps": 77, "eval_examples": 5, "eval_every": 4}
    changed = plan_training(config, task, replace(settings, minutes=9.0), context)
    assert changed["steps"] == 99
    (context.out / "schedule.json").write_text("damaged")
    measured = iter([{"steps": 11, "eval_examples": 5}])
    assert plan_training(config, task, settings, context)["steps"] == 11
