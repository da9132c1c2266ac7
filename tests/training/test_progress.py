"""Displays: live on a terminal, lines elsewhere, nothing when quiet."""

import io

import pytest
from rich.console import Console

from icecore.core.config import RunConfig
from icecore.training.progress import LineDisplay, LiveDisplay, progress_display

CONFIGS = [RunConfig(task="bit-xor", steps=10, batch_size=4, lr=lr) for lr in (1e-3, 2e-3)]
INFO = {"trained": 1234, "frozen": 56789, "device": "CPU"}


def play(display: LiveDisplay | LineDisplay) -> None:
    display.begin(CONFIGS, 5, INFO)
    display.progress(6, {"a": 0.5, "b": 0.25})
    display.validated(8, {"a": 0.75, "b": 1.0})
    display.finished([])
    display.close()


def test_the_right_display_for_the_console():
    assert isinstance(progress_display(Console(file=io.StringIO(), force_terminal=True), quiet=False), LiveDisplay)
    assert isinstance(progress_display(Console(file=io.StringIO()), quiet=False), LineDisplay)
    assert progress_display(Console(), quiet=True) is None


def test_live_shows_the_pack_and_leaves_no_display_behind():
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    display = LiveDisplay(console)
    play(display)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "bit-xor on minilm (pretrained, 2 runs)" in shown
    assert "1,234 trained, 56,789 frozen" in shown
    assert "resumed at step 5" in shown
    assert "loss 0.2500" in shown
    assert "val 100.00%" in shown
    assert display.bar is None


def test_lines(capsys: pytest.CaptureFixture[str]):
    play(LineDisplay())
    first, last = capsys.readouterr().err.splitlines()
    assert "resumed at step 5" in first
    assert last.startswith("step 8/10  loss 0.2500  val 100.00%")
