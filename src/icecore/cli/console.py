"""Consoles, tables and progress bars that the commands share."""

import contextlib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from icecore.core.text import printable

#: width of tables in pipes and logs, so that nothing that a program may read is cut
PIPE_WIDTH = 200


def stdout() -> Console:
    """A console for standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def stderr() -> Console:
    """A console for standard error."""
    return Console(stderr=True)


def echo(text: object, *, error: bool = False, end: str = "\n") -> None:
    """Print a text as it is, but for control characters, on standard output or on standard error."""
    typer.echo(printable(f"{text}{end}"), err=error, nl=False)


def print_text(text: str) -> None:
    """Print a sentence on standard output, wrapped between words in a terminal and as it is in a pipe."""
    console = stdout()
    console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=not console.is_terminal)


class _PlainTable(Table):
    """A table whose cells, which may come from files, cannot steer the terminal."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def new_table(*columns: str) -> Table:
    """An empty table in the house style. It has no header if all names are empty.

    In a narrow terminal, the first column is neither cut nor wrapped, and long words in others continue below.
    """
    table = _PlainTable(box=box.SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(printable(column), no_wrap=number == 0, overflow="fold")
    return table


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of which nothing is cut or broken.

    Columns in which all of several rows are equal stand below it as a line. Where the terminal is too narrow for the
    rest, rows stand one below the other.
    """
    console = stdout()
    shown = [number for number in range(len(columns)) if len(rows) < 2 or len({row[number] for row in rows}) > 1]
    shown = shown if 0 in shown else [0, *shown]
    # three cells between columns, and one at each edge
    if sum(3 + max(len(columns[n]), *(len(row[n]) for row in rows)) for n in shown) - 1 <= console.width:
        table = _PlainTable(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
        for number in shown:
            table.add_column(printable(columns[number]), no_wrap=True)
        for row in rows:
            table.add_row(*(escape(row[number]) for number in shown))
        console.print(table)
    else:
        for row in rows:
            print_text(f"{columns[shown[0]]} {row[shown[0]]}".strip())
            others = [f"{columns[number]} {row[number]}" for number in shown[1:] if row[number]]
            print_text(textwrap.fill(", ".join(others), console.width - 2, initial_indent="  ", subsequent_indent="  "))
    if equal := [f"{columns[n]} {rows[0][n]}" for n in range(len(columns)) if n not in shown and rows[0][n]]:
        print_text(f"In all rows: {', '.join(equal)}.")


@contextlib.contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None]]:
    """A function that shows the bytes done, of a total if known, as a bar on standard error."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr()) as bar:
        bars: list[TaskID] = []

        def show(done: int, total: int | None) -> None:
            if not bars:  # a download that never starts shows no bar
                bars.append(bar.add_task("", total=total))
            bar.update(bars[0], completed=done, total=total)

        yield show


@contextlib.contextmanager
def training_displays(out: Path, quiet: bool, tensorboard: bool = False) -> Iterator[list[Any]]:
    """Callbacks that show the progress of training. They are closed at the end, also after an error."""
    from icecore.training.progress import TensorBoardLogger, progress_display

    display = progress_display(stdout(), quiet)
    displays: list[Any] = [display] if display is not None else []
    if tensorboard:
        displays.append(TensorBoardLogger(out))
    try:
        yield displays
    finally:
        for display in displays:
            display.close()
