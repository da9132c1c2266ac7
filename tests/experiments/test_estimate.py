"""Estimates: what must make a run longer does, and the words fit the seconds."""

from typing import Any

import pytest

from icecore.core.text import approximate_duration
from icecore.experiments import estimate, sweep
from icecore.experiments.estimate import Speed

SPEED = Speed(1e11)


def seconds(task: str = "mnist", runs: int = 1, **settings: Any) -> float:
    return estimate.seconds(sweep.make_config(task, precision="fp32", **settings), runs, SPEED)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"steps": 100}, {"steps": 200}),
        ({"layers": 2}, {"layers": 3}),
        ({"backbone": "none"}, {"backbone": "minilm"}),
        ({"backbone": "minilm"}, {"backbone": "gpt2"}),
        ({"backbone": "none", "task": "mnist"}, {"backbone": "none", "task": "remote-homology"}),
        (
            {"backbone": "none", "task_options": {"bits": 100}, "task": "bit-memory"},
            {"backbone": "none", "task": "bit-memory"},
        ),
        ({"backbone": "minilm"}, {"backbone": "lstm-matched:minilm"}),
        ({"train_roles": ("output",)}, {"train_roles": ("output", "norm")}),
        ({"train_roles": ("output",), "steps": 100}, {"train_roles": ("output",), "steps": 200}),
        ({"train_roles": ("output",)}, {"train_roles": ("output", "attention")}),
        ({"runs": 1}, {"runs": 2}),
        ({"task": "bit-xor", "task_options": {"n": 5}}, {"task": "bit-xor", "task_options": {"n": 50}}),
        ({"task": "listops", "task_options": {"longest": 600}}, {"task": "listops"}),
        ({"task": "cifar10-lra", "task_options": {"side": 16}}, {"task": "cifar10-lra"}),
        ({"task": "remote-homology", "task_options": {"length": 64}}, {"task": "remote-homology"}),
        ({"task": "bit-memory", "task_options": {"strings": 2}}, {"task": "bit-memory"}),
    ],
)
def test_more_work_takes_longer(less: dict[str, Any], more: dict[str, Any]) -> None:
    assert seconds(**less) < seconds(**more)


def test_the_arithmetic_by_hand() -> None:
    config = sweep.make_config("mnist", precision="fp32", steps=10, batch_size=2, eval_every=5, test_examples=100)
    D, L, T = 384, 6, 64
    forward = T * L * (24 * D**2 + 4 * T * D)
    # a frozen body goes forward and back to its input: two passes' worth
    rows = 10 * 2 * 2 + (2 + 2) * config.eval_examples + 100
    expected = estimate.FIXED_SECONDS + 3 * rows * forward * estimate.OVERHEAD / 1e11
    assert estimate.seconds(config, 3, SPEED) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "examples"),
    [
        ({}, 0),
        ({"output_start": "ridge"}, 30_000),
        ({"output_start": "ridge", "start_examples": 500}, 500),
        ({"output_refit": "ridge"}, 2 * 5 + 2 * 10),  # as many as were trained on until then
        ({"output_refit": "ridge", "start_examples": 500}, 2 * 500),
        ({"output_refit": "ridge-if-better", "start_examples": 500}, 2 * 500 + 4 * 1000),  # and validations
        ({"output_start": "ridge", "output_refit": "ridge", "start_examples": 500}, 3 * 500),
    ],
)
def test_output_layers_in_closed_form_take_passes(settings: dict[str, Any], examples: int) -> None:
    few = {"steps": 10, "batch_size": 2, "eval_every": 5, "test_examples": 100}
    passes = 10 * 2 * 2 + (2 + 2) * 1000 + 100
    plain, solved = (seconds("mnist", **few, **each) - estimate.FIXED_SECONDS for each in ({}, settings))
    assert solved / plain == pytest.approx((passes + examples) / passes)


@pytest.mark.parametrize(("task", "is_stored"), [("mnist", True), ("bit-xor", False)])
def test_only_stored_examples_go_through_a_body_once_for_an_output_layer(task: str, is_stored: bool) -> None:
    short, long = (
        seconds(task, train_roles=("output",), steps=steps, eval_every=steps, batch_size=8)
        for steps in (100_000, 200_000)
    )
    assert (short == long) == is_stored


def test_a_body_that_is_not_on_this_machine_counts_as_gpt2() -> None:
    assert seconds(backbone="someone/something") == seconds(backbone="gpt2")


def test_measured_speed() -> None:
    assert 1e8 < Speed.measure("cpu", "fp32", size=128).operations < 1e15


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "about 3 s"),
        (89, "about 89 s"),
        (90, "about 2 min"),
        (7200, "about 2 h"),
        (2e5, "about 56 h"),
        (1e6, "about 12 days"),
    ],
)
def test_durations_in_words(given: float, words: str) -> None:
    assert approximate_duration(given) == words
