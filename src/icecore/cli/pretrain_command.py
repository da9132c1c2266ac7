"""The command that pretrains a body on a task that needs no data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from icecore.cli.console import print_text, training_displays
from icecore.cli.options import FILES, DataDir, Device, Precision, Quiet, Resume
from icecore.cli.run_commands import Compile, MicroBatch
from icecore.cli.setting_options import with_settings
from icecore.core.config import RunConfig
from icecore.core.protocols import PRETRAINING_DEFAULTS
from icecore.core.text import metric_text

#: settings of a run that a pretraining decides itself
DECIDED = ("task", "precision", "weights", "train_roles", "start")


@with_settings(RunConfig, "settings", omit=DECIDED, defaults=PRETRAINING_DEFAULTS)
def pretrain(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="What to train on: dyck, nca, bit-memory, copy, or another task.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Weights file to write, .safetensors.", rich_help_panel=FILES)
    ],
    *,
    settings: dict[str, Any],
    device: Device = "auto",
    precision: Precision = "auto",
    micro_batch: MicroBatch = None,
    compile: Compile = None,
    runs: Annotated[Path, typer.Option(help="Parent folder of the run's folder.", rich_help_panel=FILES)] = Path(
        "runs"
    ),
    data_dir: DataDir = None,
    resume: Resume = True,
    quiet: Quiet = False,
) -> None:
    """Train a whole random body on one task, and save its weights for --weights FILE."""
    from icecore.experiments.pretraining import pretrain as run_pretraining
    from icecore.experiments.pretraining import pretraining_config
    from icecore.training.context import ExecutionContext

    config = pretraining_config(task, precision, device, **settings)
    with training_displays(runs, quiet, False) as displays:
        context = ExecutionContext(runs, data_dir, device, micro_batch, resume, compile=compile, callbacks=displays)
        summary = run_pretraining(config, context, out)
    metric = metric_text(summary.test_metric or 0.0, summary.metric_name)
    layers = "" if config.layers is None else f" --layers {config.layers}"
    print_text(
        f"{config.backbone} has {summary.metric_name} {metric} on {task} after {summary.steps_done:,} steps. "
        f"Its weights are in {out}: `icecore train TASK --backbone {config.backbone}{layers} --weights {out}`."
    )
