"""What a person sees while a pack trains: a live display in a terminal, plain lines elsewhere, TensorBoard curves."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from icecore.core.config import RunConfig
from icecore.core.errors import UserError
from icecore.training.run_summary import RunSummary


class _Counted:
    """What both displays show: the numbers of the best run, and the speed."""

    def __init__(self) -> None:
        self.configs: Sequence[RunConfig] = ()
        self.losses: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        #: the step of the last losses, and the rows of all runs that were trained on since the display began
        self.counted, self.rows = 0, 0
        self.clock = time.perf_counter()

    def count(self, configs: Sequence[RunConfig], step: int) -> None:
        self.configs, self.counted, self.rows, self.clock = configs, step, 0, time.perf_counter()
        self.losses, self.metrics = {}, {}

    def count_losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Remember the last losses, and count the rows of the runs that made the steps, which may be fewer later."""
        self.rows += len(losses) * self.configs[0].batch_size * (step - self.counted)
        self.counted, self.losses = step, dict(losses)

    def speed(self) -> float:
        """Samples per second over all runs."""
        return self.rows / max(1e-9, time.perf_counter() - self.clock)

    def title(self) -> str:
        """The pack in a few words."""
        first = self.configs[0]
        depth = f", {first.layers} layers" if first.layers else ""
        runs = f", {len(self.configs)} runs" if len(self.configs) > 1 else ""
        return f"{first.task} on {first.backbone} ({first.weights}{depth}{runs})"

    def numbers(self) -> str:
        """Loss, validation metric and speed; the best ones of several runs."""
        loss = f"loss {min(self.losses.values()):.4f}" if self.losses else ""
        val = f"  val {max(self.metrics.values()):.2%}" if self.metrics else ""
        return f"{loss}{val}  {self.speed():,.0f} samples/s"


class LiveDisplay(_Counted):
    """A progress bar with loss, validation metric, samples/s and time left."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.bar: Progress | None = None

    def waiting(self, run_id: str) -> None:
        self.note(f"Another process is training the run {run_id}. Waiting until it ends.")

    def begin(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        self.count(configs, step)
        resumed = f"  [yellow]resumed at step {step:,}[/]" if step else ""
        self.console.print(
            f"[bold]{self.title()}[/]  {info['trained']:,} trained, {info['frozen']:,} frozen parameters, "
            f"{configs[0].precision} on {info['device']}{resumed}",
            highlight=False,
        )
        columns = (SpinnerColumn(), TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"), BarColumn(24))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.description}"), *times, console=self.console, transient=True)
        self.task = self.bar.add_task("", total=configs[0].steps, completed=step)
        self.bar.start()

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        self.count_losses(step, losses)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=self.numbers())

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics = dict(metrics)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=self.numbers())
            if step >= self.configs[0].steps:
                self.bar.update(self.task, description="scoring the whole validation and test sets")

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def finished(self, summaries: Sequence[RunSummary]) -> None:
        self.close()

    def close(self) -> None:
        """Remove the display, also after an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class LineDisplay(_Counted):
    """One plain line for each validation, for logs and pipes."""

    def waiting(self, run_id: str) -> None:
        self.note(f"Another process is training the run {run_id}. Waiting until it ends.")

    def begin(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        self.count(configs, step)
        resumed = f", resumed at step {step}" if step else ""
        self.say(f"{self.title()}: {info['trained']} trained, {info['frozen']} frozen parameters, "
                 f"{configs[0].precision} on {info['device']}{resumed}")  # fmt: skip

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        self.count_losses(step, losses)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics = dict(metrics)
        self.say(f"step {step}/{self.configs[0].steps}  {self.numbers()}")

    def note(self, text: str) -> None:
        self.say(text)

    def finished(self, summaries: Sequence[RunSummary]) -> None:
        pass

    def close(self) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Print one line on standard error, without delay."""
        print(text, file=sys.stderr, flush=True)


class TensorBoardLogger:
    """Losses and validation metrics as TensorBoard scalars, one curve for each run. Needs the extra `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise UserError(
                "--tensorboard needs TensorBoard. Install it with: pip install 'icecore[tensorboard]'"
            ) from error
        self.make = lambda name: SummaryWriter(str(folder / name / "tensorboard"))
        self.writers: dict[str, Any] = {}

    def waiting(self, run_id: str) -> None:
        pass

    def begin(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        self.writers = {config.run_id: self.make(config.run_id) for config in configs}

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        for run, loss in losses.items():
            self.writers[run].add_scalar("loss/train", loss, step)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        for run, metric in metrics.items():
            self.writers[run].add_scalar("metric/validation", metric, step)

    def note(self, text: str) -> None:
        pass

    def finished(self, summaries: Sequence[RunSummary]) -> None:
        self.close()

    def close(self) -> None:
        """Flush and close all curves."""
        for writer in self.writers.values():
            writer.close()
        self.writers = {}


def progress_display(console: Console, quiet: bool) -> LiveDisplay | LineDisplay | None:
    """The display for a console: none if quiet, live in a terminal, lines elsewhere."""
    if quiet:
        return None
    return LiveDisplay(console) if console.is_terminal else LineDisplay()
