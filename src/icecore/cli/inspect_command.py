"""The command that looks into a body: a table of its layers, what stands out, and a plot."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from icecore.cli.console import print_text, stdout
from icecore.cli.option_values import read_list, read_pairs
from icecore.cli.options import FILES, DataDir, Device
from icecore.core.config import BODY
from icecore.core.protocols import DEFAULT_PROTOCOL
from icecore.core.text import pluralize

if TYPE_CHECKING:
    from icecore.inspection.layer_statistics import Stage
    from icecore.inspection.measurement import Inspection

COLUMNS = ("layer", "rms", "min", "max", "at", "top1", "top10", "alike", "first", "reach", "gains", "biases")
COLUMN_MEANINGS = (
    "rms: root mean square of the hidden states, with the smallest and largest of all positions, and the position "
    "(from 0) of the largest. top1, top10: % of the squared norm in the largest dimensions. alike: mean cosine of two "
    "tokens. first: % of attention on the first position. reach: positions that a query attends to, exp(entropy). "
    "gains, biases: rms of each norm."
)

Task = Annotated[
    str | None,
    typer.Option(help="For a body: the task whose examples it gets.", show_default="bit-xor, which needs no data"),
]
TaskOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="For a body: an option of the task, for example n=20.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="For a body: pretrained, random, statistics or a weights file; or several, side by side.",
        show_default="pretrained",
        rich_help_panel=BODY,
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(help="For a body: number of layers to use.", show_default="all", rich_help_panel=BODY),
]
Rows = Annotated[
    str | None,
    typer.Option(help="For a program that was fitted to your own data: rows to read.", rich_help_panel=FILES),
]
Picture = Annotated[
    Path | None, typer.Option(help="Plot to write, .png, .svg or .pdf.", show_default="none", rich_help_panel=FILES)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print all numbers as JSON instead of the table.", rich_help_panel=FILES)
]


def inspect_(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A body, a run folder or a program file.")],
    task: Task = None,
    task_option: TaskOption = None,
    weights: Weights = None,
    layers: Layers = None,
    protocol: Annotated[
        str, typer.Option(help="For a body: the protocol whose start it gets: fast, fair or paper.")
    ] = DEFAULT_PROTOCOL,
    examples: Annotated[int, typer.Option(help="Number of examples.")] = 16,
    data: Rows = None,
    out: Picture = None,
    as_json: AsJson = False,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Show what a body does with the tokens of a task, layer by layer, and what stands out.

    A body gets the input layer of a fresh start; a run or a program is inspected as it was trained.
    """
    options = read_pairs("--task-option", task_option or [])
    from icecore.core.pictures import picture_format, require_drawing
    from icecore.inspection.inspection_target import InspectionRequest, inspect_target

    if out is not None:
        require_drawing()  # like a wrong name, refused before the work begins
        picture_format(out)
    request = InspectionRequest(
        target, task, options, read_list(weights or ""), layers, examples, data, data_dir, device, protocol
    )
    inspections = inspect_target(request)
    if out is not None:
        from icecore.inspection.inspection_plot import draw_inspections

        draw_inspections(inspections, out)
    if as_json:
        typer.echo(json.dumps([each.to_json() for each in inspections], indent=2, allow_nan=False))
        return
    for inspection in inspections:
        print_text(_heading(inspection))
        stdout().print(_table(inspection))
        for sentence in inspection.findings:
            print_text(f"- {sentence}")
        print_text("")
    print_text(COLUMN_MEANINGS)
    if out is not None:
        print_text(f"Wrote {out}.")


def _heading(inspection: "Inspection") -> str:
    body = inspection.body
    return (
        f"{body.name} ({body.weights}; {pluralize(body.layers, 'layer')} of width {body.width}; {inspection.start}) on "
        f"{inspection.task}, {pluralize(inspection.examples, 'example')} of {pluralize(inspection.length, 'position')}"
    )


def _table(inspection: "Inspection") -> Table:
    """One row for each stage, in at most 80 columns for bodies with two norms in a layer."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left", no_wrap=number < len(COLUMNS) - 2)
    for stage in inspection.stages:
        table.add_row(*_cells(stage))
    return table


def _cells(stage: "Stage") -> list[str]:
    from icecore.inspection.findings import number

    hidden, attention = stage.hidden, stage.attention
    smallest, largest = (hidden.extreme_position(largest=end) for end in (False, True))
    rms = [hidden.rms, *(float(hidden.rms_by_position[position]) for position in (smallest, largest))]
    return [
        stage.name.split()[-1],
        *map(number, rms),
        str(largest),
        *(number(100 * share) for share in (hidden.top_share, hidden.top10_share)),
        number(hidden.cosine),
        *(["", ""] if attention is None else [number(100 * attention.first), number(attention.reach)]),
        " ".join(number(norm.gain) for norm in stage.norms),
        " ".join(number(norm.bias) for norm in stage.norms if norm.bias is not None),
    ]
