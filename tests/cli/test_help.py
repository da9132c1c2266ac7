"""Help pages: every command has one, it fits a terminal, and it is what a command without arguments shows."""

from typing import Any

import pytest
import typer

from commandline import Run
from icecore.cli import main as cli

WITHOUT_ARGUMENTS = [["demo"], ["tasks"], ["backbones"], ["paper"], ["runs"], ["data", "list"], ["benchmark", "ucr"]]


def every_command() -> list[list[str]]:
    """The words of each command and group."""
    root: Any = typer.main.get_command(cli.app)
    commands = [[name] for name in root.commands]
    groups = [name for name, command in root.commands.items() if hasattr(command, "commands")]
    return [[], *commands, *([group, name] for group in groups for name in root.commands[group].commands)]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help_in_80_columns(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], option: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = run(*words, option)
    assert ended.code == 0
    assert f"Usage: icecore {' '.join(words)}".rstrip() in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "…" not in ended.out


@pytest.mark.parametrize("words", [words for words in every_command() if words not in WITHOUT_ARGUMENTS], ids=" ".join)
def test_a_command_without_its_arguments_shows_its_help(run: Run, words: list[str]) -> None:
    ended = run(*words)
    assert f"Usage: icecore {' '.join(words)}".rstrip() in ended.out
    assert "Traceback" not in ended.err
