"""The start of a fit: the most linear one that is not clearly worse, gentle steps from it, and what replaces it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from icecore import user_data
from icecore.autofit import closed_form
from icecore.autofit.closed_form import Gain, choose_start, start_program
from icecore.autofit.fit import base_config, fit
from icecore.autofit.fit_settings import FitSettings
from icecore.core.config import RunConfig
from icecore.training.closed_form_start import ClosedFormStart
from icecore.training.context import ExecutionContext
from icecore.user_data import DataSettings, UserTask


@pytest.fixture
def context(tmp_path: Path) -> ExecutionContext:
    return ExecutionContext(tmp_path, device="cpu")


def build_task(rows: int = 300) -> UserTask:
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    return user_data.from_arrays(x, x[:, 0] - 2 * x[:, 1], DataSettings(task="regression")).task()


def configure(task: UserTask, bodies: Mapping[str, str]) -> RunConfig:
    return base_config(task, FitSettings(backbone=bodies["bert"]), "fp32")


def start(*losses: float) -> ClosedFormStart:
    return ClosedFormStart(torch.ones(2, 1), torch.zeros(1), torch.tensor(losses, dtype=torch.float64))


@pytest.mark.parametrize(
    ("small", "large", "chosen"),
    [
        ((1.0, 1.1, 0.9, 1.0), (0.95, 1.2, 0.8, 0.9), 0.05),  # a difference of 0.04 ± 0.05
        ((1.0, 1.1, 0.9, 1.0), (0.4, 0.6, 0.3, 0.5), 1.0),
        ((0.5, 0.5, 0.5, 0.5), (1.0, 1.0, 1.0, 1.0), 0.05),
    ],
)
def test_the_more_linear_start_wins_unless_it_is_clearly_worse(
    small: tuple[float, ...], large: tuple[float, ...], chosen: float
) -> None:
    assert closed_form._choose_scale({0.05: start(*small), 1.0: start(*large)}) == chosen


def test_a_linear_target_gets_a_nearly_linear_start(bodies: Mapping[str, str], context: ExecutionContext) -> None:
    task = build_task()
    config = configure(task, bodies)
    settings = choose_start(config, task, context, seconds=None)
    assert settings["input_scale"] == min(closed_form.INPUT_SCALES)
    assert settings["start_examples"] == task.split_size("train")
    # large output weights need small steps before them
    assert settings["lr_factors"]["input"] < 0.5
    assert settings["lr_factors"]["position"] == pytest.approx(3 * settings["lr_factors"]["norm"])
    again = choose_start(config, task, context, seconds=None)
    assert again == settings


@pytest.mark.parametrize(
    ("seconds", "rows", "scale"),
    [(4000.0, 700, 0.05), (1600.0, 400, 0.05), (400.0, 100, 0.05), (100.0, 100, 0.05), (50.0, 50, 0.05)],
)
def test_little_time_solves_fewer_rows(
    seconds: float,
    rows: int,
    scale: float,
    bodies: Mapping[str, str],
    context: ExecutionContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row takes a second here: each scale and the start of training read the rows once."""
    monkeypatch.setattr(closed_form, "_seconds_per_row", lambda *_: 1.0)
    task = build_task(1000)
    settings = choose_start(configure(task, bodies), task, context, seconds)
    assert (settings["start_examples"], settings["input_scale"]) == (rows, scale)


def test_a_wide_output_layer_plans_no_more_rows_than_are_solved(
    bodies: Mapping[str, str], context: ExecutionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_form, "MAX_EIGENVALUES_OF_MANY", 15)  # the body is 16 wide
    task = build_task()
    assert choose_start(configure(task, bodies), task, context, seconds=None)["start_examples"] == 15


def test_too_little_time_solves_nothing(bodies: Mapping[str, str], context: ExecutionContext) -> None:
    task = build_task(1000)
    assert choose_start(configure(task, bodies), task, context, seconds=1e-9) == {}


def test_a_gain_is_clear_only_beyond_its_standard_error(bodies: Mapping[str, str], context: ExecutionContext) -> None:
    task = build_task()
    config = configure(task, bodies)
    config = replace(config, **choose_start(config, task, context, seconds=None))
    program = start_program(config, task, context)
    assert not Gain.over_start(program, program, task, context).is_clear
    worse = replace(program, tensors={n: 0.5 * t if n.startswith("output") else t for n, t in program.tensors.items()})
    assert not Gain.over_start(worse, program, task, context).is_clear
    gain = Gain.over_start(program, worse, task, context)
    assert gain.is_clear
    assert gain.start_metric < 0.9


def test_a_fit_is_as_good_as_a_linear_model(bodies: Mapping[str, str], tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=200)
    plan = user_data.from_arrays(x, x @ np.arange(6) + 3 * noise, DataSettings(task="regression"))
    task, train = plan.task(), plan.splits["train"]
    settings = FitSettings(backbone=bodies["bert"], lrs=(3e-3, 1e-1), steps=30)
    fitted = fit(task, settings, tmp_path / "a.safetensors", {}, "cpu")
    model = linear_model.RidgeCV(np.logspace(-3, 3, 20)).fit(train.inputs.numpy(), train.targets[:, 0, 0].numpy())
    test = plan.splits["test"]
    assert fitted.result.metric > model.score(test.inputs.numpy(), test.targets[:, 0, 0].numpy()) - 0.05
