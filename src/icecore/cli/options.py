"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[str | None, typer.Option(help="Folder with data sets (else ICECORE_DATA, then the cache).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")]
Body = Annotated[str, typer.Option(help="A name of `icecore backbones`, a folder, a GGUF file or org/model.")]
Weights = Annotated[str, typer.Option(help="pretrained, random, statistics, or a weights file.")]
Layers = Annotated[int | None, typer.Option(help="Use only the first layers of the body.")]
StartFrom = Annotated[Path | None, typer.Option(help="Begin with what a program on this body has learned.")]
Protocol = Annotated[str, typer.Option(help="fair, or paper (its settings and faults).")]
TaskOptions = Annotated[list[str] | None, typer.Option(help="An option of the task, e.g. n=20 (repeatable).")]
Picture = Annotated[Path | None, typer.Option(help="Picture to write (.png or .svg); default: in the run folder.")]
Results = Annotated[Path, typer.Option(help="Folder of the results files.")]
Resume = Annotated[bool, typer.Option(help="Skip what is finished, or make everything again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Train on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT, or local to start one here; without an "
        "address the one of RAY_ADDRESS or one that runs here, else local.",
    ),
]
Cpus = Annotated[int, typer.Option(min=1, help="With --ray: processors of each pack.")]
Gpus = Annotated[
    float | None, typer.Option(min=0, help="With --ray: GPUs of each pack, say 0.25 (default: 1 where there are any).")
]
