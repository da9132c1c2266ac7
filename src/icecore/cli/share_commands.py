"""Commands that share programs: push and pull."""

from pathlib import Path
from typing import Annotated

import typer

from icecore.cli.console import echo
from icecore.cli.options import Repository, Revision


def push(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM", help="A program file or a run folder.")],
    repo: Repository,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Revision = None,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
) -> None:
    """Share a program on the Hugging Face hub or in a folder, with a model card."""
    from icecore.sharing import hub

    echo(hub.push(program, repo, private=private, revision=revision, message=message))


def pull(
    repo: Repository,
    out: Annotated[Path | None, typer.Option(help="File or folder to write.")] = None,
    revision: Revision = None,
) -> None:
    """Fetch a program that someone shared. It is checked before it is put in place."""
    from icecore.sharing import hub

    echo(f"Wrote {hub.pull(repo, out, revision=revision)}.")
