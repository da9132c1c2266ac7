"""Options that several commands share, under the headings of the help pages."""

from pathlib import Path
from typing import Annotated

import typer

from icecore.core.config import COMPUTATION, TRAINING

# Headings beside those of the settings of a run.
FILES, RAY, SELECTION, SERVER = "Files and output", "Ray cluster", "Selection", "Server"

Device = Annotated[
    str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=COMPUTATION)
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of the frozen matrix products: auto, fast (8 bits where that is fastest), fp32, bf16 or int8.",
        rich_help_panel=COMPUTATION,
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        help="Folder with the data sets; no other folder is searched.",
        rich_help_panel=FILES,
        show_default="ICECORE_DATA, else the cache folder",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.", rich_help_panel=FILES)]
ResultsFolder = Annotated[Path, typer.Option("--out", help="Folder of the results files.", rich_help_panel=FILES)]
Resume = Annotated[
    bool,
    typer.Option(
        help="Skip finished runs and continue interrupted ones, or train everything again.", rich_help_panel=FILES
    ),
]
Race = Annotated[
    bool,
    typer.Option(
        "--race/--no-race",
        help="Stop learning rates that are behind after 1/10, 1/4 and 3/5 of the steps, or train all to the end.",
        rich_help_panel=TRAINING,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show which runs would be trained.", rich_help_panel=SELECTION)
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Stop with an error where rows would otherwise be skipped and counted."),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Fetch the body from the Hugging Face hub if it is not on this machine.",
        rich_help_panel=FILES,
    ),
]
SendToken = Annotated[
    bool,
    typer.Option("--token", help="With --download: also send your token, for a private body.", rich_help_panel=FILES),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.")]
Repository = Annotated[
    str, typer.Argument(metavar="REPO", help="Repository owner/name on the Hugging Face hub, or a folder.")
]

RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Train on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start one on this machine. "
        "Without an address, use that of RAY_ADDRESS or a cluster that runs here, else start one.",
        rich_help_panel=RAY,
    ),
]
RayCpus = Annotated[int, typer.Option("--cpus", min=1, help="CPUs for each pack of runs.", rich_help_panel=RAY)]
RayGpus = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        min=0,
        help="GPUs for each pack of runs, for example 0.25.",
        show_default="1 if there are any",
        rich_help_panel=RAY,
    ),
]

ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Ask the programs of a server, by name: icecore predict --url http://HOST:8000 NAME DATA",
        rich_help_panel=SERVER,
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the token that callers of the server send.", rich_help_panel=SERVER)
]
Host = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 means all of this machine.", rich_help_panel=SERVER)
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=SERVER)]
ServeOnRay = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Deploy on Ray Serve: auto, HOST:PORT, ray://HOST:PORT, or local to start a cluster on this machine.",
        rich_help_panel=RAY,
    ),
]
Replicas = Annotated[
    str, typer.Option(help="With --ray: number of replicas, or MIN-MAX to let Ray choose.", rich_help_panel=RAY)
]
ReplicaCpus = Annotated[
    float, typer.Option("--cpus", min=0, help="With --ray: processors of a replica.", rich_help_panel=RAY)
]
ReplicaGpus = Annotated[
    float, typer.Option("--gpus", min=0, help="With --ray: GPUs of a replica, for example 0.25.", rich_help_panel=RAY)
]
