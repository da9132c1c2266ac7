"""What the commands share: consoles, tables, bars, and reading what stands behind a flag."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from icecore.core.errors import ConfigError


def split(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(flag: str, text: str | None, kind: Callable[[str], Any]) -> list[Any]:
    """The comma-separated numbers of a flag."""
    try:
        return [kind(part) for part in split(text or "")]
    except ValueError:
        raise ConfigError(f"{flag}: expected numbers separated by commas, found {text!r}") from None


def pairs(flag: str, pairs: Sequence[str], kind: Callable[[str], Any]) -> dict[str, Any]:
    """name=value pairs of a flag."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            found[key.strip()] = kind(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"{flag} {pair}: expected name=value")
    return found


@contextlib.contextmanager
def download_bar() -> Iterator[Callable[[int, int | None], None]]:
    """A bar for bytes, on standard error."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors()) as bar:
        shown: list[TaskID] = []

        def progress(done: int, total: int | None) -> None:
            if not shown:  # nothing is shown of a download that never starts
                shown.append(bar.add_task("", total=total))
            bar.update(shown[0], completed=done, total=total)

        yield progress


@contextlib.contextmanager
def watchers(out: Path, quiet: bool, tensorboard: bool) -> Iterator[list[Any]]:
    """The displays asked for; taken down whatever happens."""
    from icecore.training.progress import TensorBoardLogger, progress_display

    display = progress_display(output(), quiet)
    shown: list[Any] = [display] if display is not None else []
    if tensorboard:
        shown.append(TensorBoardLogger(out))
    try:
        yield shown
    finally:
        for each in shown:
            each.close()


def output() -> Console:
    """Standard output."""
    console = Console()
    # a pipe or a log has no width: never cut what a program may read
    return console if console.is_terminal else Console(width=200)


def errors() -> Console:
    """Standard error."""
    return Console(stderr=True)


def plain(text: str) -> str:
    """`text` with nothing in it taken for markup."""
    return escape(text)


def new_table(*columns: str) -> Table:
    """An empty table in the house style; without headers where all `columns` are empty."""
    table = Table(box=box.SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
