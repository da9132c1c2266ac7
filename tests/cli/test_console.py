"""Consoles and tables: nothing that a reader may copy is cut."""

import pytest
from rich.console import Console

from icecore.cli import console


def test_a_narrow_table_cuts_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.new_table("name", "where")
    table.add_row("remote-homology-json", "sentence-transformers/all-MiniLM-L6-v2")
    Console(width=45).print(table)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (number for number, line in enumerate(lines) if "remote-homology-json" in line)
    start = lines[row].index("sentence")
    where = "".join(line[start:].strip() for line in lines[row:])
    assert where == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_pipe_is_wide_enough(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    console.stdout().print("x" * 150)
    assert "x" * 150 in capsys.readouterr().out
