"""How the command line starts: threads that wait do not keep other processes from working."""

import os
from pathlib import Path

import pytest

from icecore.cli import main as cli

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": cli.SPIN_COUNT}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_spin_for_a_short_time_unless_the_user_set_another(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], expected: dict[str, str]
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what the command line sets is undone after the test
        monkeypatch.delenv(name)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    cli.limit_spinning()
    assert {name: os.environ[name] for name in VARIABLES if name in os.environ} == expected


@pytest.mark.parametrize("words", [["--out", "~/a=b/x"], ["--out=~/x"], ["--report", "~/x.html"], ["~/data"], ["~"]])
def test_the_home_folder_is_found_where_the_shell_leaves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.expand_home(words) == [word.replace("~", str(tmp_path)) for word in words]


def test_a_tilde_within_a_name_stays() -> None:
    words = ["a~b", "~anna/x", "x~", "--task-option", "name=~/x"]
    assert cli.expand_home(words) == words
