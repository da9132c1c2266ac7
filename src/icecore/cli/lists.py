"""Commands that list what there is, and fetch data."""

from pathlib import Path
from typing import Annotated

import typer

from icecore.cli.console import download_bar, new_table, output, plain


def tasks() -> None:
    """List the tasks."""
    from icecore.tasks import TASKS

    table = new_table("task", "tokens", "options", "steps x batch", "what")
    for name, entry in TASKS.items():
        options = ", ".join(f"{key}={value}" for key, value in entry.options.items())
        budget = f"{entry.defaults.steps:,} x {entry.defaults.batch_size}"
        table.add_row(name, entry.shape, options, budget, entry.summary)
    output().print(table)


def backbones() -> None:
    """List the backbones and where their weights come from."""
    from icecore.backbones import BACKBONES
    from icecore.backbones.weights import NAMED, installed

    table = new_table("backbone", "family", "pretrained weights", "there")
    for name in BACKBONES:
        named = NAMED.get(name)
        if named is None:
            table.add_row(name, name.partition("-")[0], "nothing to load" if name == "none" else "random only", "yes")
        else:
            where = f"hub {named.hub}" + (f", or {named.package[3]}" if named.package else "")
            table.add_row(name, named.family, plain(where), "yes" if installed(name) else "")
    output().print(table)
    typer.echo("Also: a save_pretrained folder, a .gguf file, or a hub name org/model of these families.")


def data_get(
    name: Annotated[str, typer.Argument(help="A data set; see `icecore data list`.")],
    dest: Annotated[Path | None, typer.Option(help="Folder to put it in (default: the cache).")] = None,
) -> None:
    """Fetch a public data set, resumably, checked by checksum."""
    from icecore.tasks import download

    with download_bar() as progress:
        paths = download.get(name, dest, progress)
    for path in paths:
        typer.echo(path)


def data_list() -> None:
    """List the data sets that can be fetched."""
    from icecore.tasks import download

    table = new_table("data set", "what")
    for name, dataset in download.DATASETS.items():
        table.add_row(name, plain(dataset.note))
    output().print(table)
