"""The command line. torch is imported only by the commands that compute.

Mistakes a user can mend end with one message and exit code 2, never a traceback.
"""

import sys
from typing import Annotated

import typer

from icecore import __version__
from icecore.commands import lists, own, runs, studies
from icecore.commands.console import errors, plain
from icecore.errors import UserError

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

Version = Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version.")]


def main() -> None:
    """Entry point: run a command; a UserError is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        errors().print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors().print("interrupted; the same command goes on from the last state")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _options(context: typer.Context, version: Version = False) -> None:
    if version:
        typer.echo(f"icecore {__version__}")
        raise typer.Exit


if __name__ == "__main__":
    main()
