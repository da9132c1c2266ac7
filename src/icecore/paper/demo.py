"""The demo: one small body, pretrained on language and randomly initialised, learns bit XOR frozen.

Expected: the pretrained body is right on all pairs after some 60 to 120 steps, the random one is not
after 200 (paper, Table 6: 500 against 20,000 steps).
"""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from icecore.core.config import RunConfig
from icecore.experiments import sweep
from icecore.paper import attention_analysis as attention
from icecore.tasks.bits import BitXor
from icecore.training.checkpoint import RunFolder
from icecore.training.progress import progress_display

STEPS = 200
SETTINGS: dict[str, Any] = {"steps": STEPS, "batch_size": 32, "lr": 1e-3, "eval_every": 20, "schedule": "constant"}
SETTINGS |= {"eval_examples": 256, "stop_at": 1.0}


def run_demo(out: Path, device: str, quiet: bool, console: Console) -> None:
    """Train both bodies, print the comparison, draw the pretrained body's attention into `out`."""
    console.print(
        "Two strings of 5 bits in, their XOR out. The body (MiniLM, 6 layers) is [bold]frozen[/]; trained are "
        "the input and output layers, positions and norms.\n",
        highlight=False,
    )
    display = progress_display(console, quiet)
    watchers = [display] if display is not None else []
    rows: list[tuple[RunConfig, dict[str, Any]]] = []
    try:
        for weights in ("pretrained", "random"):
            config = sweep.make_config("bit-xor", device=device, backbone="minilm", weights=weights, **SETTINGS)
            group = sweep.run_sweep([config], sweep.Place(out / weights, device=device, watchers=watchers))
            rows.append((config, group["runs"][0]))
    finally:
        if display is not None:
            display.close()
    console.print(_table(out, rows))
    pretrained = rows[0][0]
    model, task = sweep.open_run(out / "pretrained" / pretrained.run_id, device=device)
    assert isinstance(task, BitXor)
    found = attention.attention_maps(model, task)
    picture = out / "attention.png"
    attention.draw(found, picture, "bit XOR on frozen pretrained MiniLM", task)
    mass = found.relevant_mass(task)
    console.print(
        f"The outputs' most telling head gives {float(mass.max()):.0%} of its attention to the two bits an output "
        f"needs (uniform: {1 / task.n:.0%}).\nPicture: [bold]{picture}[/]",
        highlight=False,
    )


def _table(out: Path, rows: list[tuple[RunConfig, dict[str, Any]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("body", "test bit accuracy", "100 % at step", "trained", "frozen", "seconds"):
        table.add_column(column, justify="left" if column == "body" else "right")
    for config, summary in rows:
        reached = first_perfect(RunFolder(out / config.weights, config))
        table.add_row(
            config.weights,
            f"{summary['test_metric']:.1%}",
            f"not in {STEPS}" if reached is None else str(reached),
            f"{summary['trainable_parameters']:,}",
            f"{summary['frozen_parameters']:,}",
            f"{summary['seconds']:.1f}",
        )
    return table


def first_perfect(folder: RunFolder) -> int | None:
    """The first step at which the validation metric was 1, or None."""
    return next((e["step"] for e in folder.events() if e["event"] == "validation" and e["metric"] >= 1.0), None)
