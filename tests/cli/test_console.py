"""Consoles and tables: nothing that a reader may copy is cut."""

from pathlib import Path

import pytest
from rich.console import Console

from commandline import Run
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


def test_names_from_files_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]0;title\x07\x1b[2J\u202eb"
    table = console.new_table(hostile, "")
    table.add_row(hostile, hostile)
    console.stdout().print(table)
    console.print_text(hostile)
    console.echo(hostile)
    console.echo(hostile, error=True)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert r"a\x1b]0;title\x07\x1b[2J\u202eb" in text


def test_errors_of_files_and_memory_are_one_message(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run("fit", tmp_path / ("x" * 300), "--plan")
    assert ended.code == 2
    assert "File name too long. Check the name" in ended.err
    monkeypatch.setattr("icecore.user_data.plan", lambda *_: [0] * 2**58)
    ended = run("fit", tmp_path, "--plan")
    assert ended.code == 2
    assert "The memory of this machine is too small" in ended.err
    monkeypatch.setattr("icecore.user_data.plan", lambda *_: (tmp_path / "\x1b[2J").read_text())
    ended = run("fit", tmp_path, "--plan")
    assert ended.code == 2
    assert r"\x1b[2J: No such file" in ended.err
