"""The command line: the application with its commands, and how it ends.

Mistakes that a user can correct end with one message and exit code 2, never with a traceback. Commands import torch
only when they compute, so that `--help` is quick.
"""

import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from icecore.cli import (
    benchmark_command,
    fit_commands,
    inspect_command,
    list_commands,
    pretrain_command,
    run_commands,
    serve_command,
    share_commands,
    study_commands,
)
from icecore.cli.console import stderr
from icecore.core.errors import ConfigError, UserError
from icecore.core.spinning import limit_spinning
from icecore.core.text import printable
from icecore.core.version import __version__

#: exit code that typer turns Ctrl-C into
INTERRUPTED = 130
#: values of --ray; any other word after it is the next argument
RAY_ADDRESS = re.compile(r"local|auto|\w+://\S+|\S+:\d+")
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

# Headings of the list of commands.
USER_DATA, PAPER_TASKS = "Your own data", "Train and inspect runs"
MANY_RUNS, LISTS = "Many runs and the paper", "Lists and downloads"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=HELP_OPTIONS,
    help="Use a frozen pretrained transformer as a universal computation engine: only a small program is trained.",
)
data = typer.Typer(no_args_is_help=True, help="List and download public data sets.")
benchmark = typer.Typer(no_args_is_help=True, help="Compare bodies on public data sets, beside published results.")


def _add(panel: str, command: Callable[..., Any], name: str | None = None, takes_arguments: bool = True) -> None:
    """Add a command under a heading. Commands that need arguments show their help if there are none."""
    app.command(name=name, rich_help_panel=panel, no_args_is_help=takes_arguments)(command)


_add(PAPER_TASKS, run_commands.demo, takes_arguments=False)
_add(PAPER_TASKS, run_commands.train)
_add(PAPER_TASKS, pretrain_command.pretrain)
_add(PAPER_TASKS, run_commands.evaluate, name="eval")
_add(PAPER_TASKS, run_commands.attend)
_add(PAPER_TASKS, inspect_command.inspect_, name="inspect")
_add(PAPER_TASKS, run_commands.info)
_add(PAPER_TASKS, run_commands.runs, takes_arguments=False)
_add(USER_DATA, fit_commands.fit)
_add(USER_DATA, fit_commands.predict)
_add(USER_DATA, serve_command.serve)
_add(USER_DATA, share_commands.push)
_add(USER_DATA, share_commands.pull)
_add(MANY_RUNS, study_commands.paper, takes_arguments=False)
_add(MANY_RUNS, study_commands.grid)
_add(MANY_RUNS, study_commands.report)
_add(LISTS, list_commands.tasks, takes_arguments=False)
_add(LISTS, list_commands.backbones, takes_arguments=False)
app.add_typer(data, name="data", rich_help_panel=LISTS)
data.command(name="get", no_args_is_help=True)(list_commands.data_get)
data.command(name="list")(list_commands.data_list)
app.add_typer(benchmark, name="benchmark", rich_help_panel=MANY_RUNS)
benchmark.command(name="ucr")(benchmark_command.ucr)


def main() -> None:
    """Entry point: run a command. A UserError ends it with one message and exit code 2."""
    limit_spinning()
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a name shows its code instead
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(expand_home(insert_ray_address(sys.argv[1:])), prog_name="icecore")
    except UserError as error:
        _fail(str(error))
    except MemoryError:
        _fail("The memory of this machine is too small for this. Use fewer or smaller data, or a smaller body.")
    except OSError as error:
        if error.filename is None:  # not about a file, so probably a mistake of icecore
            raise
        _fail(f"{error.filename}: {error.strerror}. Check the name, the permissions and the disk.")
    except SystemExit as ended:
        if ended.code == INTERRUPTED and os.environ.get("RANK", "0") == "0":  # one message for all of torchrun's
            stderr().print("Interrupted. The same command continues from the last saved state.")
        raise


def _fail(message: str) -> NoReturn:
    """End with a message and exit code 2."""
    stderr().print(f"[bold red]error:[/] {escape(printable(message))}", highlight=False, soft_wrap=True)
    sys.exit(2)


def expand_home(words: Sequence[str]) -> list[str]:
    """The words of a command line with the home folder for ~ where the shell left it: in quotes, and in --out=~/x.

    >>> from pathlib import Path
    >>> expand_home(["fit", "--out=~/x", "a~b"]) == ["fit", f"--out={Path.home()}/x", "a~b"]
    True
    """
    return [re.sub(r"^(--[\w-]+=)?(~(?=/|$).*)$", _with_home, word) for word in words]


def _with_home(match: re.Match[str]) -> str:
    return (match[1] or "") + os.path.expanduser(match[2])  # noqa: PTH111 - "~/a/" keeps its last slash


def insert_ray_address(words: Sequence[str]) -> list[str]:
    """The words of a command line, with an empty address for each `--ray` that no address follows.

    >>> insert_ray_address(["grid", "--ray", "mine.toml"]), insert_ray_address(["grid", "--ray", "local", "mine.toml"])
    (['grid', '--ray=', 'mine.toml'], ['grid', '--ray', 'local', 'mine.toml'])
    """
    pairs = itertools.zip_longest(words, words[1:], fillvalue="")
    return ["--ray=" if word == "--ray" and not RAY_ADDRESS.fullmatch(following) else word for word, following in pairs]


def _show_version(show: bool) -> None:
    if show:
        typer.echo(f"icecore {__version__}")
        raise typer.Exit


@app.callback()
def _check_processes(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    command = context.invoked_subcommand
    if command != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"torchrun starts several processes that train together, which only `icecore train` does. Each of them "
            f"would do all of {command}. Start it without torchrun; `paper` and `grid` also have --ray, or can be "
            "started on several machines with the same command."
        )


if __name__ == "__main__":
    main()
