"""Displays of progress (live on a terminal, lines elsewhere, none when quiet), and curves for TensorBoard."""

import io
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from icecore.cli.console import training_displays
from icecore.core.config import RunConfig
from icecore.core.errors import UserError
from icecore.experiments.sweep import run_sweep
from icecore.training import progress
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.progress import LineDisplay, LiveDisplay, TensorBoardLogger, progress_display

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
    assert "bit-xor: minilm, pretrained, 2 runs together" in shown
    assert "1,234 trained and 56,789 frozen" in shown
    assert "resumed at step 5" in shown
    assert "loss 0.2500" in shown
    assert "validation 100.0 %" in shown
    assert display.bar is None


def test_lines(capsys: pytest.CaptureFixture[str]):
    play(LineDisplay())
    first, last = capsys.readouterr().err.splitlines()
    assert "resumed at step 5" in first
    assert last.startswith("step 8/10  loss 0.2500  validation 100.0 %")
    assert last.endswith("0 s elapsed, about 0 s left")


@pytest.mark.parametrize("minutes", [None, 1.0])
def test_a_bar_fits_80_columns_and_a_line_with_the_result_stays(
    config: Callable[..., RunConfig], tmp_path: Path, minutes: float | None
):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    each = config(minutes=minutes)

    class Drawn(LiveDisplay):
        """A display that draws at every validation, however short the time since the last one."""

        def validated(self, step: int, metrics: Mapping[str, float]) -> None:
            super().validated(step, metrics)
            assert self.bar is not None
            self.bar.refresh()

    run_sweep([each], ExecutionContext(tmp_path, device="cpu", callbacks=[Drawn(console)]))
    assert isinstance(console.file, io.StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in shown.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"step 8.*, validation [\d.]+ %, \d+ s elapsed", line) for line in lines)
    assert re.fullmatch(r"  12 steps in \d+ s, best validation [\d.]+ % at step \d+", lines[-1])


def test_elapsed_and_left_go_by_the_clock_in_a_time_box(config: Callable[..., RunConfig], monkeypatch: Any):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    counted = LineDisplay()
    counted.begin([config(minutes=10.0, steps=1000)], 0, INFO)
    now[0] = 75.0
    assert counted.times(20) == "1 min 15 s elapsed, about 8 min 45 s left"
    assert counted.steps(20) == "step 20"
    counted.begin([config(steps=1000)], 0, INFO)
    now[0] += 26
    assert counted.times(20) == "26 s elapsed, about 21 min 14 s left"
    assert counted.steps(20) == "step 20/1,000"


class FakeWriter:
    """A SummaryWriter of TensorBoard that records its calls. `opened` are the writers in order."""

    opened: ClassVar[list["FakeWriter"]] = []

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = False
        self.opened.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert not self.closed
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    """The writers that are opened while TensorBoard is replaced by a fake."""
    monkeypatch.setattr(FakeWriter, "opened", [])
    module = types.ModuleType("torch.utils.tensorboard.writer")
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.ModuleType("torch.utils.tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", module)
    return FakeWriter.opened


def test_tensorboard_gets_the_losses_and_metrics_of_each_run(
    config: Callable[..., RunConfig], tmp_path: Path, writers: list[FakeWriter]
):
    """One curve for each run, in the folder of the run, with the numbers of its events."""
    configs = [config(lr=lr) for lr in (1e-3, 1e-2)]
    out = tmp_path / "runs"
    run_sweep(configs, ExecutionContext(out, device="cpu", callbacks=[TensorBoardLogger(out)]))
    assert [writer.folder for writer in writers] == [out / each.run_id / "tensorboard" for each in configs]
    for each, writer in zip(configs, writers, strict=True):
        events = RunFolder(out, each).events()
        losses = [("loss/train", e["loss"], e["step"]) for e in events if e["event"] == "train"]
        metrics = [("metric/validation", e["metric"], e["step"]) for e in events if e["event"] == "validation"]
        assert [step for _, _, step in losses] == list(range(1, 13))
        assert [step for _, _, step in metrics] == [4, 8, 12]
        assert sorted(writer.scalars) == sorted(losses + metrics)
        assert writer.closed


def test_tensorboard_files_are_closed_after_an_error(tmp_path: Path, writers: list[FakeWriter]):
    def fail() -> None:
        with training_displays(tmp_path, quiet=True, tensorboard=True) as (logger,):
            logger.begin(CONFIGS, 0, INFO)
            logger.progress(1, {CONFIGS[1].run_id: 0.5})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [writer.scalars for writer in writers] == [[], [("loss/train", 0.5, 1)]]
    assert all(writer.closed for writer in writers)


def test_without_tensorboard_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(UserError, match=r"--tensorboard needs TensorBoard.*pip install 'icecore\[tensorboard\]'"):
        TensorBoardLogger(tmp_path)


def test_displays_show_a_training_from_begin_to_end(
    config: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Lines: one for each validation. Live: a bar that also shows the final scoring and is then removed."""
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    live, each = LiveDisplay(console), config()
    run_sweep([each], ExecutionContext(tmp_path / "live", device="cpu", callbacks=[live]))
    capsys.readouterr()
    run_sweep([each], ExecutionContext(tmp_path / "lines", device="cpu", callbacks=[LineDisplay()]))
    first, *validations, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"bit-xor: {each.backbone}, pretrained: ")
    assert last.startswith(f"bit-xor: {each.backbone}, pretrained: 12 steps in ")
    metrics = [e["metric"] for e in RunFolder(tmp_path / "lines", each).events() if e["event"] == "validation"]
    assert [line.partition("  loss ")[0] for line in validations] == ["step 4/12", "step 8/12", "step 12/12"]
    for line, metric in zip(validations, metrics, strict=True):
        assert f"  validation {100 * metric:.1f} %  " in line
    assert isinstance(console.file, io.StringIO)
    assert "bit-xor: " in console.file.getvalue()
    assert "step 12/12" in console.file.getvalue()
    assert "scoring the whole validation and test sets" in console.file.getvalue()
    assert live.bar is None


def test_a_display_says_that_another_process_is_training(capsys: pytest.CaptureFixture[str]):
    console = Console(file=io.StringIO(), width=140)
    for display in (LiveDisplay(console), LineDisplay()):
        display.waiting("0123abcd")
    assert isinstance(console.file, io.StringIO)
    for text in (console.file.getvalue(), capsys.readouterr().err):
        assert "0123abcd" in text
        assert "nother process is training" in text
