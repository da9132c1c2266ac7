"""Commands that train single runs, score them and look into them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from icecore.cli.console import echo, new_table, print_rows, print_text, stdout, training_displays
from icecore.cli.option_values import read_hub_access, read_numbers
from icecore.cli.options import FILES, DataDir, Device, Download, Precision, Quiet, Race, Resume, RunPath, SendToken
from icecore.cli.setting_options import with_settings
from icecore.core.config import COMPUTATION, TRAINING, RunConfig
from icecore.core.errors import unknown_name
from icecore.core.text import metric_text, percent, pluralize, printable
from icecore.training.run_summary import BEHIND, SweepSummary

LearningRates = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Learning rate, or several from which validation chooses, for example 3e-4,1e-3,3e-3.",
        show_default="from the task",
        rich_help_panel=TRAINING,
    ),
]
Seeds = Annotated[
    str, typer.Option(metavar="LIST", help="Seed, or several, for example 0,1,2.", rich_help_panel=TRAINING)
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        help="Rows of a run per pass. Smaller ones save memory; results are the same.",
        show_default="as many as memory allows",
        rich_help_panel=COMPUTATION,
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the body's kernels.",
        show_default="in long trainings at int8 or on a GPU",
        rich_help_panel=COMPUTATION,
    ),
]
Shard = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="Under torchrun: divide the body among the processes (FSDP2).",
        rich_help_panel=COMPUTATION,
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write curves for TensorBoard.", rich_help_panel=FILES)
]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the picture.")] = Path("demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Show the whole idea in a minute: pretrained and random MiniLM learn bit XOR."""
    from icecore.paper.demo import run_demo

    run_demo(out, device, quiet, stdout())


@with_settings(RunConfig, "settings", omit=("task", "lr", "seed", "precision"))
def train(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task. `icecore tasks` lists them.")],
    lr: LearningRates = None,
    seeds: Seeds = "0",
    race: Race = False,
    *,
    settings: dict[str, Any],
    device: Device = "auto",
    precision: Precision = "auto",
    micro_batch: MicroBatch = None,
    compile: Compile = None,
    shard: Shard = False,
    out: Annotated[Path, typer.Option(help="Parent folder of the run folders.", rich_help_panel=FILES)] = Path("runs"),
    data_dir: DataDir = None,
    resume: Resume = True,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
) -> None:
    """Train a task on a frozen body. Several learning rates and seeds are trained together, as one pack."""
    lrs, seed_list = read_numbers("--lr", lr or "", float), read_numbers("--seeds", seeds, int)
    from icecore.experiments import sweep
    from icecore.training import distributed
    from icecore.training.context import ExecutionContext

    if lrs:
        settings["lr"] = lrs[0]
    configs = sweep.expand_sweep(
        sweep.make_config(task, precision=precision, device=device, **settings), lrs, seed_list
    )
    with distributed.join_processes(shard) as world:
        device = world.device(device)
        with training_displays(out, quiet or not world.is_main, tensorboard and world.is_main) as displays:
            options = {"race": race, "compile": compile, "callbacks": displays, "world": world}
            group = sweep.run_sweep(configs, ExecutionContext(out, data_dir, device, micro_batch, resume, **options))
    if world.is_main:
        _print_group(group, out / sweep.summary_name(configs))


def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="Split to score: train, val, test, or another test split.")] = "test",
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    token: SendToken = False,
) -> None:
    """Score a trained program on a whole split."""
    from icecore.experiments import sweep
    from icecore.training.evaluation import evaluate as score

    model, task = sweep.open_run(run, data_dir, device, hub=read_hub_access(download, token))
    splits: Sequence[str] = [split]
    if split == "test" and "test" not in task.test_splits:
        splits = task.test_splits
    for name in splits:
        if name not in (known := ("train", "val", *task.test_splits)):
            raise unknown_name("split", name, known)
        metric = float(score(model, task, name, finite=True)[0])
        value = metric_text(metric, task.metric_name)
        echo(f"{name} {task.metric_name}: {value} ({pluralize(task.split_size(name), 'example')})")


def attend(
    run: RunPath,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write, .png or .svg.", show_default="attention.png in the run folder"),
    ] = None,
    examples: Annotated[int, typer.Option(help="Number of examples to average over.")] = 64,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    token: SendToken = False,
) -> None:
    """Draw the attention maps of a trained program, averaged over examples."""
    from icecore.core.pictures import picture_format, require_drawing
    from icecore.experiments import sweep
    from icecore.inference.attention_maps import attention_maps
    from icecore.paper.attention_analysis import xor_attention
    from icecore.paper.attention_plot import draw_attention
    from icecore.tasks.bits import BitXor

    path = out or run / "attention.png"
    require_drawing()  # like a wrong name, refused before the work begins
    picture_format(path)
    model, task = sweep.open_run(run, data_dir, device, hub=read_hub_access(download, token))
    maps = attention_maps(model, task, examples=examples)
    info = model.backbone.info
    draw_attention(maps, path, f"{task.name} on {info.name} ({info.weights})", task)
    print_text(f"Wrote {path}.")
    if isinstance(task, BitXor):
        shares = xor_attention(maps, task).summary()
        print_text(
            f"Attention of the outputs to the two bits that they need: {percent(shares['mean'])} on average, "
            f"{percent(shares['best'])} in the best head (layer {shares['best_layer']}, head {shares['best_head']}), "
            f"{percent(shares['uniform'])} if it were uniform. To the first string's bit alone: at most "
            f"{percent(shares['first_bit_best'])}, {shares['first_bit_ratio']:.1f} times the uniform share."
        )


def info(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a program file.")]) -> None:
    """Describe a run or a program."""
    from icecore.experiments import sweep
    from icecore.experiments.run_list import list_runs, run_card
    from icecore.model.program import Program
    from icecore.sharing import model_card

    if run.is_file():
        program = Program.load(run)
        if stdout().is_terminal:
            from rich.markdown import Markdown

            stdout().print(Markdown(printable(model_card.page(program, run.stem))))
        else:
            echo(model_card.card(program, run.stem))
        return
    config = sweep.read_run_config(run)
    (listed,) = (each for each in list_runs(run) if each.path == run)
    table = new_table("", "")
    for topic, text in run_card(config, listed.summary, listed.status).items():
        table.add_row(topic, escape(text))
    stdout().print(table)
    print_text(f"All settings are in {run / 'config.json'}.")


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with run folders, at any depth.")] = Path(
        "runs"
    ),
) -> None:
    """List the runs under a folder: what they are, and how they ended."""
    from icecore.experiments.run_list import list_runs

    rows: list[tuple[str, ...]] = []
    for run in list_runs(folder):
        name = str(run.path.relative_to(folder))
        if run.config is None:
            rows.append((name, "", "", "", "", run.status, "", ""))
            continue
        config, done = run.config, run.summary
        body = config.backbone + ("" if config.backbone == "none" else f", {config.weights}")
        scores = (None, None) if done is None else (done.val_metric, done.test_metric)
        metric_name = "" if done is None else done.metric_name
        shown = ("" if score is None else metric_text(score, metric_name) for score in scores)
        rows.append((name, config.task, body, f"{config.lr:g}", str(config.seed), run.status, *shown))
    if not rows:
        print_text(f"There are no runs in {folder}.")
        return
    print_rows(("run", "task", "body", "lr", "seed", "status", "val", "test"), rows)
    print_text(f"{pluralize(len(rows), 'run')}. `icecore info {folder / rows[0][0]}` shows one.")


def _print_group(sweep: SweepSummary, path: Path) -> None:
    """Print one row for each run, then what validation chose."""
    runs = sweep.runs
    metric_name = runs[0].metric_name
    rows: list[tuple[str, ...]] = []
    for run in runs:
        values = (run.train_metric, run.val_metric, run.test_metric)
        metrics = ("-" if value is None else metric_text(value, metric_name) for value in values)
        status = f"{run.status}, step {run.steps_done:,}" if run.status == BEHIND else run.status
        settings = (run.run_id, f"{run.lr:g}", str(run.seed), status, f"{run.best_step:,}")
        rows.append((*settings, *metrics, f"{run.seconds:.0f}"))
    print_rows(("run", "lr", "seed", "status", "best step", "train", "val", "test", "seconds"), rows)
    first = next((run for run in runs if run.lr == sweep.chosen_lr), runs[0])
    scores = {split: value for split, value in first.test_metrics.items() if value is not None}
    if len(scores) > 1:
        print_text("  ".join(f"{split} {metric_text(value, metric_name)}" for split, value in scores.items()))
    metric = f"Test {runs[0].metric_name}"
    if sweep.test_mean is None:
        print_text("No run ended with finite numbers. Choose a smaller --lr.")
    elif len(runs) > 1:
        sem = "" if sweep.test_sem is None else f" ± {metric_text(sweep.test_sem, metric_name).removeprefix('R² ')}"
        mean = metric_text(sweep.test_mean, metric_name)
        over = f" (mean and its standard error over {sweep.n_seeds} seeds)" if sem else ""
        validation = metric_text(sweep.val_mean or 0.0, metric_name)
        print_text(f"Validation chose learning rate {sweep.chosen_lr:g} (mean {validation}).")
        print_text(f"{metric} at this rate: {mean}{sem}{over}")
    else:
        print_text(f"{metric}: {metric_text(sweep.test_mean, metric_name)}")
    print_text(
        f"{runs[0].trainable_parameters:,} trained and {runs[0].frozen_parameters:,} frozen parameters. "
        f"The full result is in {path}."
    )
