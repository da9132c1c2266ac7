"""Options made from settings dataclasses: each value arrives with its type, and defaults stay with the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from commandline import Run
from icecore.cli.setting_options import OPTION_NAMES, with_settings
from icecore.core.config import RunConfig
from icecore.core.errors import UserError
from icecore.core.settings import setting
from icecore.experiments import sweep


@dataclass(frozen=True, kw_only=True)
class Example:
    """Settings of every type."""

    count: int = setting(3, help="A count.", group="Numbers")
    share: float | None = setting(None, help="A share.", group="Numbers", default_note="half")
    kind: Literal["near", "far"] = setting("near", help="A kind.")
    names: tuple[str, ...] = setting((), help="Names.")
    widths: tuple[int, ...] = setting((8, 4), help="Widths.")
    factors: Mapping[str, float] = setting(default_factory=dict, help="Factors.")
    task_options: Mapping[str, Any] = setting(default_factory=dict, help="An option.")
    lr: float | None = setting(None, help="A rate.", default_note="from the task")
    strict: bool = setting(False, help="A flag.")
    race: bool = setting(True, help="A flag that is on.")
    hidden: int = setting(0, help="Not shown.")
    seed: int | None = setting(None, help="A seed.")


def call(*words: str, defaults: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], str]:
    """The settings that a command receives, and what it prints."""
    received: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @with_settings(Example, "settings", omit=("hidden",), names={"seed": "--split-seed"}, defaults=defaults)
    def command(settings: dict[str, Any], device: str = "auto") -> None:
        received.update(settings, device=device)

    result = CliRunner().invoke(app, words, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    return received, result.output


def test_values_have_the_types_of_their_settings() -> None:
    words = "--count 5 --share 0.5 --kind far --names a,b --widths 1,2 --factors x=1,y=0.5 --strict --device cpu"
    received, _ = call(*words.split(), "--task-option", "n=3", "--task-option", "mode=odd")
    assert received == {
        "count": 5,
        "share": 0.5,
        "kind": "far",
        "names": ("a", "b"),
        "widths": (1, 2),
        "factors": {"x": 1.0, "y": 0.5},
        "task_options": {"n": "3", "mode": "odd"},
        "strict": True,
        "race": True,
        "device": "cpu",
    }


def test_options_that_are_not_given_leave_the_defaults_to_the_settings() -> None:
    received, _ = call()
    assert received == {"count": 3, "kind": "near", "strict": False, "race": True, "device": "auto"}


def test_a_flag_that_is_on_can_be_switched_off() -> None:
    received, _ = call("--no-race")
    assert received["race"] is False
    assert "--no-race" in call("--help")[1]


def test_an_option_can_have_a_name_of_its_own() -> None:
    assert call("--split-seed", "4")[0]["seed"] == 4


def test_a_command_can_have_defaults_of_its_own() -> None:
    own = {"lr": 0.5, "kind": "far"}
    assert call(defaults=own)[0].items() >= own.items()
    assert call("--lr", "2", defaults=own)[0]["lr"] == 2.0
    shown = call("--help", defaults=own)[1]
    assert "[default: 0.5]" in shown
    assert "from the task" not in shown
    assert "from the task" in call("--help")[1]


def test_help_shows_text_default_and_heading_of_every_field() -> None:
    _, shown = call("--help")
    for text in ("Numbers", "A count.", "[default: 3]", "[default: (half)]", "[default: (8,4)]", "--task-option"):
        assert text in shown
    assert "Not shown." not in shown


def test_train_has_an_option_for_every_setting_of_a_run(run: Run) -> None:
    shown = run("train", "--help").out
    names = {OPTION_NAMES.get(field.name, "--" + field.name.replace("_", "-")) for field in fields(RunConfig)}
    for name in names - {"--task", "--seed"} | {"--seeds"}:
        assert f" {name} " in shown, name


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("", {}),
        ("--protocol paper", {"protocol": "paper"}),
        ("--protocol paper --backbone lstm --weights random", {"protocol": "paper", "backbone": "lstm"}),
        (
            "--task-option n=7 --lr-factors position=2,norm=0.5 --train-roles output --clip 2 --output-hidden 8,4",
            {
                "task_options": {"n": 7},
                "lr_factors": {"position": 2.0, "norm": 0.5},
                "train_roles": ("output",),
                "clip": 2.0,
                "output_hidden": (8, 4),
            },
        ),
        ("--start-from a.safetensors --steps 5", {"start": "a.safetensors", "steps": 5}),
    ],
)
def test_train_makes_the_configuration_that_python_makes(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: str, settings: dict[str, Any]
) -> None:
    configs: list[RunConfig] = []

    def stop(given: list[RunConfig], *_: Any) -> None:
        configs.extend(given)
        raise UserError("stopped by the test")

    monkeypatch.setattr(sweep, "run_sweep", stop)
    assert "stopped by the test" in run("train", "bit-xor", "--device", "cpu", *words.split()).err
    if settings.get("backbone") == "lstm":
        settings = {**settings, "weights": "random"}
    assert configs == [sweep.make_config("bit-xor", device="cpu", **settings)]


def test_unknown_options_suggest_the_nearest_ones(run: Run) -> None:
    assert "--eval-every" in run("train", "bit-xor", "--eval-evry", 3).err
