"""The commands. Each is a few lines over the public API; torch is imported only by those that compute.

Mistakes a user can mend end with one message and exit code 2, never a traceback.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icecore import __version__
from icecore.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Frozen pretrained transformers as universal computation engines: train the small rest.",
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch public data sets and see what is there.")
app.add_typer(data_app, name="data")

DataDir = Annotated[str | None, typer.Option(help="Folder with data sets (else ICECORE_DATA, then the cache).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")]
Version = Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version.")]
Body = Annotated[str, typer.Option(help="A name of `icecore backbones`, a folder, a GGUF file or org/model.")]
TaskOptions = Annotated[list[str] | None, typer.Option(help="An option of the task, e.g. n=20 (repeatable).")]
Picture = Annotated[Path | None, typer.Option(help="Picture to write (.png or .svg); default: in the run folder.")]


def main() -> None:
    """Entry point: run a command; a UserError is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        _error_console().print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _error_console().print("interrupted; the same command goes on from the last state")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _options(context: typer.Context, version: Version = False) -> None:
    if version:
        typer.echo(f"icecore {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for runs and the picture.")] = Path("demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """MiniLM, pretrained and random, learns bit XOR: the whole idea in a minute."""
    from icecore.demo import run_demo

    run_demo(out, device, quiet, _console())


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A task; see `icecore tasks`.")],
    backbone: Body = "minilm",
    weights: Annotated[str, typer.Option(help="pretrained, random, statistics, or a weights file.")] = "pretrained",
    layers: Annotated[int | None, typer.Option(help="Use only the first layers of the body.")] = None,
    train_roles: Annotated[str | None, typer.Option(help="What is trained, e.g. input,norm,position,output.")] = None,
    lr: Annotated[str | None, typer.Option(help="Learning rate, or several: 3e-4,1e-3,3e-3.")] = None,
    seeds: Annotated[str, typer.Option(help="Seed, or several: 0,1,2.")] = "0",
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step of each run.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fast (8 bits where fastest), fp32, bf16, int8.")] = "auto",
    protocol: Annotated[str, typer.Option(help="fair, or paper (its settings and faults).")] = "fair",
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(help="Parent of the run folders.")] = Path("runs"),
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from the last state, or start over.")] = True,
    task_option: TaskOptions = None,
    schedule: Annotated[str | None, typer.Option(help="constant, or cosine with warm-up.")] = None,
    lr_factors: Annotated[str | None, typer.Option(help="Relative rates, e.g. position=3,output=0.3.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Rate of every dropout in the body.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between validations.")] = None,
    eval_examples: Annotated[int | None, typer.Option(help="Validation examples each time.")] = None,
    test_examples: Annotated[int | None, typer.Option(help="Score only so many at the end; to try things out.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many validations without improvement.")] = None,
    stop_at: Annotated[float | None, typer.Option(help="Stop at this validation metric.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Rows of a run per pass; saves memory, same results.")] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compiled kernels; by default where training is long.")
    ] = None,
    input_hidden: Annotated[str | None, typer.Option(help="Hidden widths of an MLP input layer, e.g. 256.")] = None,
    output_hidden: Annotated[str | None, typer.Option(help="Hidden widths of an MLP output layer.")] = None,
    body_seed: Annotated[int, typer.Option(help="Seed of random body weights.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard curves.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a task on a frozen body; several --lr and --seeds are one packed training."""
    lrs, seed_list = _numbers("--lr", lr, float), _numbers("--seeds", seeds, int)
    options = _pairs("--task-option", task_option or (), str)
    from icecore import grid

    config = grid.configure(
        task,
        precision=precision,
        device=device,
        backbone=backbone,
        weights=weights,
        layers=layers,
        train_roles=None if train_roles is None else tuple(_split(train_roles)),
        lr=lrs[0] if lrs else None,
        steps=steps,
        batch_size=batch_size,
        protocol=protocol,
        task_options=options,
        schedule=schedule,
        lr_factors=None if lr_factors is None else _pairs("--lr-factors", _split(lr_factors), float),
        dropout=dropout,
        eval_every=eval_every,
        eval_examples=eval_examples,
        test_examples=test_examples,
        patience=patience,
        stop_at=stop_at,
        input_hidden=_numbers("--input-hidden", input_hidden, int) or None,
        output_hidden=_numbers("--output-hidden", output_hidden, int) or None,
        body_seed=body_seed,
    )
    configs = grid.expand(config, lrs, seed_list)
    with _watchers(out, quiet, tensorboard) as watchers:
        group = grid.run(configs, grid.Place(out, data_dir, device, micro_batch, resume, compile, watchers))
    _print_group(group, out)


@app.command(name="eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    split: Annotated[str, typer.Option(help="train, val, or a test split.")] = "test",
    data_dir: DataDir = None,
    device: Device = "auto",
) -> None:
    """Score a trained program on a whole split."""
    from icecore import grid
    from icecore.evaluation import evaluate as score

    model, task = grid.open_run(run, data_dir, device)
    if split == "test" and "test" not in task.test_splits:
        splits: Sequence[str] = task.test_splits
    else:
        splits = [split]
    for name in splits:
        metric = float(score(model, task, name)[0])
        typer.echo(f"{name} {task.metric_name}: {metric:.4f} ({task.split_size(name):,} examples)")


@app.command()
def attend(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Picture = None,
    examples: Annotated[int, typer.Option(help="Examples to average over.")] = 64,
    data_dir: DataDir = None,
    device: Device = "auto",
) -> None:
    """Average attention maps over examples and draw them."""
    from icecore import attention, grid
    from icecore.tasks.bits import BitXor

    model, task = grid.open_run(run, data_dir, device)
    found = attention.attention_maps(model, task, examples=examples)
    path = out or run / "attention.png"
    info = model.backbone.info
    attention.draw(found, path, f"{task.name} on {info.name} ({info.weights})", task)
    typer.echo(f"wrote {path}")
    if isinstance(task, BitXor):
        mass = found.relevant_mass(task)
        layer, head = divmod(int(mass.argmax()), mass.shape[1])
        typer.echo(
            f"attention of the outputs on the two bits they need: mean {float(mass.mean()):.1%}, "
            f"best head {float(mass.max()):.1%} (layer {layer + 1}, head {head + 1}), uniform {1 / task.n:.1%}"
        )


@app.command()
def info(run: Annotated[Path, typer.Argument(help="A run folder or a program file.")]) -> None:
    """Show what a run or program is."""
    from icecore import grid

    table = _table("", "")
    for name, value in grid.describe(run).items():
        table.add_row(name, _plain(str(value)))
    _console().print(table)


@app.command()
def tasks() -> None:
    """List the tasks."""
    from icecore.tasks import TASKS

    table = _table("task", "tokens", "options", "steps x batch", "what")
    for name, entry in TASKS.items():
        options = ", ".join(f"{key}={value}" for key, value in entry.options.items())
        budget = f"{entry.defaults.steps:,} x {entry.defaults.batch_size}"
        table.add_row(name, entry.shape, options, budget, entry.summary)
    _console().print(table)


@app.command()
def backbones() -> None:
    """List the backbones and where their weights come from."""
    from icecore.backbones import BACKBONES
    from icecore.backbones.weights import NAMED, installed

    table = _table("backbone", "family", "pretrained weights", "there")
    for name in BACKBONES:
        named = NAMED.get(name)
        if named is None:
            table.add_row(name, name.partition("-")[0], "nothing to load" if name == "none" else "random only", "yes")
        else:
            where = f"hub {named.hub}" + (f", or {named.package[3]}" if named.package else "")
            table.add_row(name, named.family, _plain(where), "yes" if installed(name) else "")
    _console().print(table)
    typer.echo("Also: a save_pretrained folder, a .gguf file, or a hub name org/model of these families.")


@data_app.command(name="get")
def data_get(
    name: Annotated[str, typer.Argument(help="A data set; see `icecore data list`.")],
    dest: Annotated[Path | None, typer.Option(help="Folder to put it in (default: the cache).")] = None,
) -> None:
    """Fetch a public data set, resumably, checked by checksum."""
    from icecore import download

    with _download_bar() as progress:
        paths = download.get(name, dest, progress)
    for path in paths:
        typer.echo(path)


@data_app.command(name="list")
def data_list() -> None:
    """List the data sets that can be fetched."""
    from icecore import download

    table = _table("data set", "what")
    for name, dataset in download.DATASETS.items():
        table.add_row(name, _plain(dataset.note))
    _console().print(table)


@contextlib.contextmanager
def _watchers(out: Path, quiet: bool, tensorboard: bool) -> Iterator[list[Any]]:
    """The displays asked for; taken down whatever happens."""
    from icecore.progress import TensorBoardWatcher, watcher

    display = watcher(_console(), quiet)
    watchers: list[Any] = [display] if display is not None else []
    if tensorboard:
        watchers.append(TensorBoardWatcher(out))
    try:
        yield watchers
    finally:
        for each in watchers:
            each.close()


def _print_group(group: dict[str, Any], out: Path) -> None:
    """One row a run, then what validation chose."""
    runs = group["runs"]
    table = _table("run", "lr", "seed", "status", "best step", "train", "val", "test", "seconds")
    for s in runs:
        metrics = ("-" if s[k] is None else f"{s[k]:.2%}" for k in ("train_metric", "val_metric", "test_metric"))
        settings = (s["run_id"], f"{s['lr']:g}", str(s["seed"]), s["status"], f"{s['best_step']:,}")
        table.add_row(*settings, *metrics, f"{s['seconds']:.0f}")
    _console().print(table)
    extra = {k: v for k, v in runs[0]["test_metrics"].items() if v is not None}
    if len(extra) > 1:
        typer.echo("  ".join(f"{split} {value:.2%}" for split, value in extra.items()))
    if group["test_mean"] is None:
        typer.echo("no run ended with a finite state; lower --lr")
    elif len(runs) > 1:
        sem = "" if group["test_sem"] is None else f" +- {group['test_sem']:.2%} (SEM over {group['n_seeds']} seeds)"
        chosen = f"validation chose lr {group['chosen_lr']:g} (mean {group['val_mean']:.2%})"
        typer.echo(f"{chosen}; test {runs[0]['metric_name']} there {group['test_mean']:.2%}{sem}")
    else:
        typer.echo(f"test {runs[0]['metric_name']}: {group['test_mean']:.2%}")
    counts = f"{runs[0]['trainable_parameters']:,} trained, {runs[0]['frozen_parameters']:,} frozen parameters"
    typer.echo(f"{counts}; everything is in {out / 'summary.json'}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(flag: str, text: str | None, kind: Callable[[str], Any]) -> list[Any]:
    """The comma-separated numbers of a flag."""
    try:
        return [kind(part) for part in _split(text or "")]
    except ValueError:
        raise ConfigError(f"{flag}: expected numbers separated by commas, found {text!r}") from None


def _pairs(flag: str, pairs: Sequence[str], kind: Callable[[str], Any]) -> dict[str, Any]:
    """name=value pairs of a flag."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            found[key.strip()] = kind(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"{flag} {pair}: expected name=value")
    return found


@contextlib.contextmanager
def _download_bar() -> Iterator[Callable[[int, int | None], None]]:
    """A bar for bytes, on standard error."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_error_console()) as bar:
        shown: list[TaskID] = []

        def progress(done: int, total: int | None) -> None:
            if not shown:  # nothing is shown of a download that never starts
                shown.append(bar.add_task("", total=total))
            bar.update(shown[0], completed=done, total=total)

        yield progress


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    # a pipe or a log has no width: never cut what a program may read
    return console if console.is_terminal else Console(width=200)


def _error_console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _table(*columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


if __name__ == "__main__":
    main()
