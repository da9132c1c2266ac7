"""What a person sees while a pack trains: a live display in a terminal, plain lines elsewhere, TensorBoard curves."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from icecore.core.config import RunConfig
from icecore.core.errors import UserError
from icecore.core.text import duration, metric_text, pluralize
from icecore.training.run_summary import RunSummary

#: terminals that are narrower show no losses and no speed
WIDE = 110
#: share of the time that must be over before the rest is estimated
ESTIMABLE = 0.01


class _Counted:
    """What both displays show: the numbers of the best run, the speed, and the time."""

    def __init__(self) -> None:
        self.configs: Sequence[RunConfig] = ()
        self.losses: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        #: the step of the last losses, the first one, and the rows of all runs that were trained on in between
        self.counted, self.first, self.rows = 0, 0, 0
        self.clock = time.perf_counter()
        self.metric_name = "accuracy"

    def count(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        self.metric_name = info.get("metric_name", self.metric_name)
        self.configs, self.counted, self.first, self.rows = configs, step, step, 0
        self.clock = time.perf_counter()
        self.losses, self.metrics = {}, {}

    def count_losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Remember the last losses, and count the rows of the runs that made the steps, which may be fewer later."""
        self.rows += len(losses) * self.configs[0].batch_size * (step - self.counted)
        self.counted, self.losses = step, dict(losses)

    def seconds(self) -> float:
        """Time since the display began."""
        return time.perf_counter() - self.clock

    def speed(self) -> float:
        """Samples per second over all runs."""
        return self.rows / max(1e-9, self.seconds())

    def share(self, step: int) -> float:
        """Share of the training that is over: of its time if it has a time box, otherwise of its steps."""
        config = self.configs[0]
        done = step / config.steps
        if config.minutes is not None and self.first == 0:
            done = max(done, self.seconds() / (60 * config.minutes))
        return min(1.0, done)

    def times(self, step: int) -> str:
        """Time that is over, and about how much is left."""
        elapsed = duration(self.seconds())
        start = self.first / self.configs[0].steps
        share = self.share(step)
        if share - start < ESTIMABLE or share >= 1:
            return f"{elapsed} elapsed"
        return f"{elapsed} elapsed, about {duration(self.seconds() * (1 - share) / (share - start))} left"

    def steps(self, step: int) -> str:
        """The step, and how many there will be unless a time box decides that."""
        config = self.configs[0]
        return f"step {step:,}" + (f"/{config.steps:,}" if config.minutes is None else "")

    def title(self) -> str:
        """The pack in a few words."""
        first = self.configs[0]
        task = "your data" if first.task == "own" else first.task
        depth = f", {pluralize(first.layers, 'layer')}" if first.layers else ""
        runs = f", {len(self.configs)} runs together" if len(self.configs) > 1 else ""
        weights = "" if first.backbone == "none" else f", {first.weights}"
        body = "no body" if first.backbone == "none" else first.backbone
        return f"{task}: {body}{weights}{depth}{runs}"

    def numbers(self, brief: bool = False) -> str:
        """Loss, validation metric and speed; the best ones of several runs. If `brief`, only the validation metric."""
        val = f"validation {metric_text(max(self.metrics.values()), self.metric_name)}" if self.metrics else ""
        if brief:
            return val
        loss = f"loss {min(self.losses.values()):.4f}" if self.losses else ""
        speed = f"{self.speed():,.0f} samples/s" if self.rows else ""
        return "  ".join(filter(None, (loss, val, speed)))

    def result(self, summaries: Sequence[RunSummary]) -> str:
        """One line that says what the pack reached."""
        known = [each for each in summaries if each.val_metric is not None]
        steps = max((each.steps_done for each in summaries), default=0)
        text = f"{self.title()}: {pluralize(steps, 'step')} in {duration(self.seconds())}"
        if not known:
            return f"{text}, no finite result"
        best = max(known, key=lambda each: each.val_metric or 0.0)
        value = metric_text(best.val_metric or 0.0, self.metric_name)
        return f"{text}, best validation {value} at step {best.best_step:,}"


class LiveDisplay(_Counted):
    """A progress bar with the validation metric and the time left, and in a wide terminal loss and samples/s."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.bar: Progress | None = None

    def waiting(self, run_id: str) -> None:
        self.note(f"Another process is training the run {run_id}. Waiting until it ends.")

    def begin(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        self.count(configs, step, info)
        resumed = f"  [yellow]resumed at step {step:,}[/]" if step else ""
        self.console.print(
            f"[bold]{escape(self.title())}[/]\n  {info['trained']:,} trained and {info['frozen']:,} frozen parameters, "
            f"{configs[0].precision} on {escape(info['device'])}{resumed}",
            highlight=False,
        )
        columns = (SpinnerColumn(), BarColumn(16), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.task = self.bar.add_task("", total=1.0)
        self.bar.update(self.task, completed=self.share(step))
        self.bar.start()

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        self.count_losses(step, losses)
        self._show(step)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics = dict(metrics)
        self._show(step)
        if self.bar is not None and step and self.share(step) >= 1:
            self.bar.update(self.task, description=f"{self.steps(step)}, scoring the whole validation and test sets")

    def _show(self, step: int) -> None:
        if self.bar is not None:
            numbers = self.numbers(brief=self.console.width < WIDE)
            text = ", ".join(filter(None, (self.steps(step), numbers, self.times(step))))
            self.bar.update(self.task, completed=self.share(step), description=text)

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def finished(self, summaries: Sequence[RunSummary]) -> None:
        self.close()
        if summaries:
            self.note(f"  {self.result(summaries).removeprefix(f'{self.title()}: ')}")

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
        self.count(configs, step, info)
        resumed = f", resumed at step {step}" if step else ""
        self.say(f"{self.title()}: {info['trained']} trained and {info['frozen']} frozen parameters, "
                 f"{configs[0].precision} on {info['device']}{resumed}")  # fmt: skip

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        self.count_losses(step, losses)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics = dict(metrics)
        self.say(f"{self.steps(step)}  {self.numbers()}  {self.times(step)}")

    def note(self, text: str) -> None:
        self.say(text)

    def finished(self, summaries: Sequence[RunSummary]) -> None:
        if summaries:
            self.say(self.result(summaries))

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
