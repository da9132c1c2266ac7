"""The command line. torch is imported only by the commands that compute.

Mistakes a user can mend end with one message and exit code 2, never a traceback.
"""

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from icecore import __version__
from icecore.cli import lists, runs, studies
from icecore.cli import user_data as own
from icecore.cli.console import errors, plain
from icecore.core.errors import ConfigError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Frozen pretrained transformers as universal computation engines: train the small rest.",
)
data = typer.Typer(no_args_is_help=True, help="Fetch public data sets and see what is there.")

for command in (runs.demo, runs.train, studies.paper, studies.grid, studies.report):
    app.command()(command)
app.command(name="eval")(runs.evaluate)
for command in (own.fit, own.predict, own.push, own.pull, runs.attend, runs.info, lists.tasks, lists.backbones):
    app.command()(command)
app.add_typer(data, name="data")
data.command(name="get")(lists.data_get)
data.command(name="list")(lists.data_list)

#: exit code that typer makes of Ctrl-C
INTERRUPTED = 130
#: what may stand behind --ray
RAY_ADDRESS = re.compile(r"local|auto|\w+://\S+|\S+:\d+")

Version = Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version.")]


def main() -> None:
    """Entry point: run a command; a UserError is one message and exit code 2."""
    try:
        app(spelled_out(sys.argv[1:]))
    except UserError as error:
        errors().print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            errors().print("interrupted; the same command goes on from the last state")
        raise


def spelled_out(words: Sequence[str]) -> list[str]:
    """The `words` of a command line, an empty address given to each `--ray` that no address follows.

    >>> spelled_out(["grid", "--ray", "mine.toml"]), spelled_out(["grid", "--ray", "local", "mine.toml"])
    (['grid', '--ray=', 'mine.toml'], ['grid', '--ray', 'local', 'mine.toml'])
    """
    following = [*words[1:], ""]
    return [
        "--ray=" if word == "--ray" and not RAY_ADDRESS.fullmatch(after) else word
        for word, after in zip(words, following, strict=True)
    ]


@app.callback(invoke_without_command=True)
def _options(context: typer.Context, version: Version = False) -> None:
    if version:
        typer.echo(f"icecore {__version__}")
        raise typer.Exit
    command = context.invoked_subcommand
    if command != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"torchrun starts processes that train together, which `icecore train` does; {command} would be done by "
            "each of them (for `paper` and `grid` there is --ray, or the same command on each machine)"
        )


if __name__ == "__main__":
    main()
