"""Tables in a terminal of 80 columns: ids and numbers are whole, equal columns are dropped, wide rows stack."""

import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from icecore.cli import console

COLUMNS = ("run", "lr", "seed", "status", "best step", "train", "val", "test", "seconds")
SHORT = [
    ("698a58d1c2e3", "0.001", "0", "completed", "1,200", "100.0 %", "99.1 %", "98.7 %", "12"),
    ("0123456789ab", "0.003", "0", "completed", "400", "97.0 %", "96.5 %", "96.0 %", "12"),
]
LONG = [(row[0], row[1], str(number), "behind in the race, step 1,200", *row[4:]) for number, row in enumerate(SHORT)]


def shown(
    rows: Sequence[Sequence[str]], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(console, "stdout", lambda: Console(width=width, force_terminal=True, color_system=None))
    console.print_rows(COLUMNS, rows)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("rows", [SHORT, LONG, SHORT[:1]])
def test_nothing_is_cut(
    rows: Sequence[Sequence[str]], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(rows, width, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    flat = re.sub(r"\s+", " ", text)
    for row in rows:
        for cell in (row[0], row[1], *row[4:]):
            assert cell in flat


def test_equal_columns_are_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(SHORT, 80, monkeypatch, capsys)
    assert "In all rows: seed 0, status completed, seconds 12." in re.sub(r"\s+", " ", text)
    assert text.count("completed") == 1
    # a single row has all of its columns
    assert "status completed" in re.sub(r"\s+", " ", shown(SHORT[:1], 40, monkeypatch, capsys))


def test_a_row_that_is_too_wide_is_a_block(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(LONG, 60, monkeypatch, capsys).splitlines()
    assert lines[0] == "run 698a58d1c2e3"
    assert lines[1].startswith("  lr 0.001, seed 0")


def test_names_from_files_are_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("[red]a[/]\x1b[2J", *SHORT[0][1:]), ("b", *SHORT[1][1:])]
    for width in (40, 200):
        text = shown(rows, width, monkeypatch, capsys)
        assert "[red]a[/]" in text
        assert "\x1b" not in text
