"""FitSettings: one description of each option for Python, the command line and the estimators."""

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest

import icecore
from icecore.autofit.fit_settings import FitSettings
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError


def test_every_option_has_a_help_text() -> None:
    for option in dataclasses.fields(FitSettings):
        assert option.metadata["help"].endswith("."), option.name


def test_options_that_runs_have_too_are_described_alike() -> None:
    run = {option.name: option for option in dataclasses.fields(RunConfig)}
    for option in dataclasses.fields(FitSettings):
        if option.name in ("backbone", "weights", "layers", "start"):
            assert (option.default, option.metadata) == (run[option.name].default, run[option.name].metadata)


def test_the_estimators_take_the_options_of_fit() -> None:
    pytest.importorskip("sklearn")
    parameters = inspect.signature(icecore.FPTClassifier).parameters
    # scikit-learn calls the seed `random_state`, and an estimator has no controls to compare with
    options = {option.name: option.default for option in dataclasses.fields(FitSettings)}
    shared = {name: default for name, default in options.items() if name not in ("seeds", "controls", "minutes")}
    assert {name: parameters[name].default for name in shared} == shared
    assert "minutes" in parameters


def test_one_number_counts_as_a_list_of_one() -> None:
    assert (FitSettings(lrs=0.1, seeds=3).lrs, FitSettings(lrs=0.1, seeds=3).seeds) == ((0.1,), (3,))  # type: ignore[arg-type]
    assert FitSettings(lrs=[0.1, 0.2]).lrs == (0.1, 0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrs": ()}, r"lrs: expected at least one learning rate above 0, found \(\)"),
        ({"lrs": (0.1, -1.0)}, "lrs: expected at least one learning rate above 0"),
        ({"seeds": ()}, "seeds: expected at least one seed"),
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, found 0"),
        ({"minutes": 0.0}, "minutes: expected more than 0, found 0"),
        ({"minutes": float("nan")}, "minutes: expected more than 0, found nan"),
        ({"minutes": "five"}, "minutes: expected a number, found 'five'"),
        ({"precision": "fp23"}, "Unknown precision 'fp23'.*fp32"),
        ({"controls": 1}, "controls: expected true or false, found 1"),
    ],
)
def test_values_that_are_not_possible(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FitSettings(**options)


def test_an_unknown_option_gets_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match=r"Unknown setting 'minute'\. Did you mean 'minutes'"):
        icecore.fit(np.zeros((20, 2)), np.arange(20) % 2, minute=3)
