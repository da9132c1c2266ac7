"""The demo: a small frozen body learns bit XOR, once pretrained on language and once randomly initialised.

With the pretrained body all outputs are right after about 60 to 120 steps, with the random one not even after 200
(paper, Table 6: 500 and 20,000 steps).
"""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icecore.core.config import RunConfig
from icecore.core.pictures import require_drawing
from icecore.core.text import percent
from icecore.experiments import sweep
from icecore.inference.attention_maps import attention_maps
from icecore.paper.attention_analysis import xor_attention
from icecore.paper.attention_plot import draw_attention
from icecore.tasks.bits import BitXor
from icecore.training.checkpoint import RunFolder, validation_curve
from icecore.training.context import ExecutionContext
from icecore.training.progress import progress_display
from icecore.training.run_summary import RunSummary

DEMO_STEPS = 200
DEMO_SETTINGS: dict[str, Any] = {
    "protocol": "fair",
    "steps": DEMO_STEPS,
    "batch_size": 32,
    "lr": 1e-3,
    "eval_every": 20,
    "eval_examples": 256,
    "schedule": "constant",
    "stop_at": 1.0,
}


def run_demo(out: Path, device: str, quiet: bool, console: Console) -> None:
    """Train programs on both bodies, print a comparison, and draw the attention of the pretrained body into `out`.

    Raises UserError before anything is trained if the extra `plot` is missing.
    """
    require_drawing()
    console.print(
        "The inputs are two strings of 5 bits, the output is their XOR. The body (MiniLM, 6 layers) is "
        "[bold]frozen[/]. Only the input and output layers, positions and norms are trained.\n",
        highlight=False,
    )
    display = progress_display(console, quiet)
    callbacks = [display] if display is not None else []
    runs: list[tuple[RunConfig, RunSummary]] = []
    try:
        for weights in ("pretrained", "random"):
            config = sweep.make_config("bit-xor", device=device, backbone="minilm", weights=weights, **DEMO_SETTINGS)
            group = sweep.run_sweep([config], ExecutionContext(out / weights, device=device, callbacks=callbacks))
            runs.append((config, group.runs[0]))
    finally:
        if display is not None:
            display.close()
    console.print(_comparison_table(out, runs))
    pretrained, _ = runs[0]
    model, task = sweep.open_run(out / "pretrained" / pretrained.run_id, device=device)
    assert isinstance(task, BitXor)
    maps = attention_maps(model, task)
    picture = out / "attention.png"
    draw_attention(maps, picture, "bit XOR on frozen pretrained MiniLM", task)
    shares = xor_attention(maps, task).summary()
    other, both, uniform = (
        percent(share, digits=0) for share in (shares["first_bit_best"], shares["best"], shares["uniform"] / 2)
    )
    console.print(
        f"Of the two bits that an output needs, one is at its own position, which most heads look at anyway. The best "
        f"head gives {other} of its attention to the other one ({uniform} if attention were uniform), and one gives "
        f"{both} to both together.\nPicture: [bold]{escape(str(picture))}[/]",
        highlight=False,
    )


def _comparison_table(out: Path, runs: list[tuple[RunConfig, RunSummary]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("body", "test bit accuracy", "100 % at step", "trained", "frozen", "seconds"):
        table.add_column(column, justify="left" if column == "body" else "right")
    for config, summary in runs:
        step = first_perfect_step(RunFolder(out / config.weights, config))
        table.add_row(
            config.weights,
            "diverged" if summary.test_metric is None else percent(summary.test_metric),
            f"not in {DEMO_STEPS}" if step is None else str(step),
            f"{summary.trainable_parameters:,}",
            f"{summary.frozen_parameters:,}",
            f"{summary.seconds:.1f}",
        )
    return table


def first_perfect_step(folder: RunFolder) -> int | None:
    """The first step at which the validation metric was 1, or None."""
    return next((step for step, metric in validation_curve(folder.events()) if metric >= 1.0), None)
