"""A configuration is a value: canonical, checked, and named by a stable id."""

import itertools
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from icecore.core.config import FPT_ROLES, ROLES, RunConfig
from icecore.core.errors import ConfigError

RESULTS = Path(__file__).parents[2] / "results"
BASE: dict[str, Any] = {"task": "bit-xor", "steps": 100, "batch_size": 8, "lr": 1e-3}


def make(**changes: Any) -> RunConfig:
    return RunConfig(**{**BASE, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_roles": ("output", "norm"), "layers": 3, "protocol": "paper"},
        {"task_options": {"n": 7, "nested": (1, 2)}, "input_hidden": [8, 4], "patience": 3, "stop_at": 1},
    ],
)
def test_json_there_and_back_is_identity(changes: dict[str, Any]) -> None:
    config = make(**changes)
    assert RunConfig.from_json(config.to_json()) == config
    assert RunConfig.from_json(json.dumps(json.loads(config.to_json()), indent=2)).run_id == config.run_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"stop_at": 1}, {"stop_at": 1.0}),
        ({"train_roles": ("norm", "input", "norm")}, {"train_roles": ["input", "norm"]}),
        ({"input_hidden": [4]}, {"input_hidden": (4,)}),
        ({"task_options": {"a": 1, "b": 2}}, {"task_options": {"b": 2, "a": 1}}),
    ],
)
def test_equal_configurations_have_equal_ids(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert make(**one) == make(**other)
    assert make(**one).run_id == make(**other).run_id


def test_every_setting_is_part_of_the_id() -> None:
    config = make()
    changed: dict[str, Any] = {
        "task": "listops",
        "task_options": {"n": 2},
        "backbone": "gpt2",
        "weights": "random",
        "layers": 2,
        "train_roles": ("norm",),
        "input_hidden": (4,),
        "output_hidden": (4,),
        "protocol": "paper",
        "precision": "bf16",
        "schedule": "constant",
        "patience": 2,
        "stop_at": 0.5,
        "lr_factors": {"norm": 2.0},
        **dict.fromkeys(("body_seed", "seed"), 1),
        **dict.fromkeys(("lr", "warmup", "clip", "dropout"), 0.25),
        **dict.fromkeys(("steps", "batch_size", "eval_every", "eval_examples", "test_examples"), 7),
    }
    assert changed.keys() == json.loads(config.to_json()).keys()
    ids = {replace(config, **{name: value}).run_id for name, value in changed.items()}
    assert len(ids | {config.run_id}) == len(changed) + 1


def test_run_id_is_the_same_everywhere() -> None:
    # golden: a change of this value means that users' finished runs are no longer found
    assert make(protocol="fair").run_id == "99fc929662c8"


def test_committed_results_keep_their_ids() -> None:
    lines = [line for path in RESULTS.glob("*.jsonl") for line in path.read_text().splitlines()]
    records = [record for record in map(json.loads, lines) if "config" in record]
    assert len(records) > 600
    for record in records:
        config = RunConfig.from_json(json.dumps(record["config"]))
        assert config.run_id == record["run_id"]
        assert json.loads(config.to_json()) == record["config"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_roles": ("nrom",)}, "Unknown role 'nrom'. Did you mean 'norm'?"),
        ({"train_roles": ()}, "train_roles: nothing would be trained. Name at least one role of input, output, norm"),
        ({"protocol": "fare"}, "Unknown protocol 'fare'. Did you mean 'fair' or 'fast'\\?"),
        ({"schedule": "cosin"}, "Unknown schedule 'cosin'. Did you mean 'cosine'?"),
        ({"precision": "bf61"}, "Unknown precision 'bf61'. Did you mean 'bf16'?"),
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, found 0"),
        ({"eval_every": 0}, "eval_every: expected at least 1, found 0"),
        ({"lr": -1.0}, "lr: expected a positive number, found -1.0"),
        ({"lr": math.nan}, "lr: expected a positive number, found nan"),
        ({"seed": -1}, r"seed: expected 0 to 2\*\*63 - 1, found -1"),
        ({"dropout": 1.0}, r"dropout: expected a rate in \[0, 1\), found 1.0"),
        ({"warmup": 1.5}, r"warmup: expected a share of the steps in \[0, 1\], found 1.5"),
        ({"clip": 0.0}, "clip: expected a positive number, found 0.0"),
        ({"patience": 0}, "patience: expected at least 1, found 0"),
        ({"output_hidden": (8, 0)}, r"output_hidden: expected widths of at least 1, found \(8, 0\)"),
        ({"output_hidden": (3.5,)}, r"output_hidden: expected a list of whole numbers, found \(3.5,\)"),
        ({"input_hidden": 3}, "input_hidden: expected a list of whole numbers, found 3"),
        ({"train_roles": "norm"}, "train_roles: expected a list of texts, found 'norm'"),
        ({"lr_factors": {"norm": "a"}}, "lr_factors of norm: expected a number, found 'a'"),
        ({"lr_factors": [1]}, r"lr_factors: expected a table of names and numbers, found \[1\]"),
        ({"task_options": [1]}, r"task_options: expected a table of names and values, found \[1\]"),
        ({"stop_at": math.nan}, "stop_at: expected a finite number, found nan"),
        ({"body_seed": 2**70}, "body_seed: expected 0 to "),
        ({"start": 3}, "start: expected text, found 3"),
        ({"steps": 2.0}, "steps: expected a whole number, found 2.0"),
        ({"layers": True}, "layers: expected a whole number, found True"),
        ({"lr": "fast"}, "lr: expected a number, found 'fast'"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a run configuration: "),
        ("[]", "not a run configuration: expected a JSON object"),
        ('{"task": "x"}', "The setting 'steps' is missing"),
        ('{"stpes": 1}', "Unknown setting 'stpes'. Did you mean 'steps'?"),
        (json.dumps(BASE | {"steps": "many"}), "steps: expected a whole number, found 'many'"),
    ],
)
def test_bad_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_json(text)


def test_pack_key_ignores_learning_rate_and_seed_only() -> None:
    config = make()
    assert config.pack_key() == make(lr=1.0, seed=5).pack_key()
    assert config.pack_key() != make(batch_size=9).pack_key()


@pytest.mark.parametrize("role", sorted(set(ROLES) - set(FPT_ROLES)))
def test_runs_that_train_the_shared_body_are_not_packed(role: str) -> None:
    roles = (*FPT_ROLES, role)
    assert make(train_roles=roles).pack_key() != make(train_roles=roles, seed=5).pack_key()


def test_constant_schedule_rises_then_stays() -> None:
    config = make(steps=10, lr=2.0, schedule="constant", warmup=0.4)
    assert [config.lr_at(step) for step in range(10)] == [0.5, 1.0, 1.5] + [2.0] * 7


def test_cosine_schedule() -> None:
    config = make(steps=100, lr=2.0, schedule="cosine", warmup=0.2)
    rates = [config.lr_at(step) for step in range(100)]
    assert rates[:20] == pytest.approx([2.0 * (step + 1) / 20 for step in range(20)])
    assert rates[20] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)  # half way down the cosine
    assert rates[40] == pytest.approx(1.0 + math.sqrt(0.5))
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[20:]))


@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_schedules_stay_positive_and_below_the_peak(schedule: str, warmup: float) -> None:
    config = make(steps=7, lr=0.1, schedule=schedule, warmup=warmup)
    assert all(0 < config.lr_at(step) <= 0.1 for step in range(7))


def test_every_setting_has_help_in_full_sentences() -> None:
    for field in fields(RunConfig):
        assert field.metadata["help"][0].isupper(), field.name
        assert field.metadata["help"].endswith("."), field.name
