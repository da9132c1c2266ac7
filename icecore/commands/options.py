"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[str | None, typer.Option(help="Folder with data sets (else ICECORE_DATA, then the cache).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")]
Body = Annotated[str, typer.Option(help="A name of `icecore backbones`, a folder, a GGUF file or org/model.")]
TaskOptions = Annotated[list[str] | None, typer.Option(help="An option of the task, e.g. n=20 (repeatable).")]
Picture = Annotated[Path | None, typer.Option(help="Picture to write (.png or .svg); default: in the run folder.")]
Results = Annotated[Path, typer.Option(help="Folder of the results files.")]
Resume = Annotated[bool, typer.Option(help="Skip what is finished, or make everything again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")]
