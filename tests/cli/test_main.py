"""How the command line starts."""

from pathlib import Path

import pytest

from icecore.cli import main as cli


@pytest.mark.parametrize("words", [["--out", "~/a=b/x"], ["--out=~/x"], ["--report", "~/x.html"], ["~/data"], ["~"]])
def test_the_home_folder_is_found_where_the_shell_leaves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.expand_home(words) == [word.replace("~", str(tmp_path)) for word in words]


def test_a_tilde_within_a_name_stays() -> None:
    words = ["a~b", "~anna/x", "x~", "--task-option", "name=~/x"]
    assert cli.expand_home(words) == words
