"""Commands about single runs: train, score, look into."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from icecore.cli.console import new_table, numbers, output, pairs, plain, split, watchers
from icecore.cli.options import Body, DataDir, Device, Layers, Picture, Protocol, Quiet, StartFrom, TaskOptions, Weights
from icecore.core.text import pluralize


def demo(
    out: Annotated[Path, typer.Option(help="Folder for runs and the picture.")] = Path("demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """MiniLM, pretrained and random, learns bit XOR: the whole idea in a minute."""
    from icecore.paper.demo import run_demo

    run_demo(out, device, quiet, output())


def train(
    task: Annotated[str, typer.Argument(help="A task; see `icecore tasks`.")],
    backbone: Body = "minilm",
    weights: Weights = "pretrained",
    layers: Layers = None,
    train_roles: Annotated[str | None, typer.Option(help="What is trained, e.g. input,norm,position,output.")] = None,
    lr: Annotated[str | None, typer.Option(help="Learning rate, or several: 3e-4,1e-3,3e-3.")] = None,
    seeds: Annotated[str, typer.Option(help="Seed, or several: 0,1,2.")] = "0",
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step of each run.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fast (8 bits where fastest), fp32, bf16, int8.")] = "auto",
    protocol: Protocol = "fair",
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
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: divide the body among the processes (FSDP2).")
    ] = False,
    input_hidden: Annotated[str | None, typer.Option(help="Hidden widths of an MLP input layer, e.g. 256.")] = None,
    output_hidden: Annotated[str | None, typer.Option(help="Hidden widths of an MLP output layer.")] = None,
    body_seed: Annotated[int, typer.Option(help="Seed of random body weights.")] = 0,
    start_from: StartFrom = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard curves.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a task on a frozen body; several --lr and --seeds are one packed training."""
    lrs, seed_list = numbers("--lr", lr, float), numbers("--seeds", seeds, int)
    options = pairs("--task-option", task_option or (), str)
    from icecore.experiments import sweep
    from icecore.training import distributed

    config = sweep.make_config(
        task,
        precision=precision,
        device=device,
        backbone=backbone,
        weights=weights,
        layers=layers,
        train_roles=None if train_roles is None else tuple(split(train_roles)),
        lr=lrs[0] if lrs else None,
        steps=steps,
        batch_size=batch_size,
        protocol=protocol,
        task_options=options,
        schedule=schedule,
        lr_factors=None if lr_factors is None else pairs("--lr-factors", split(lr_factors), float),
        dropout=dropout,
        eval_every=eval_every,
        eval_examples=eval_examples,
        test_examples=test_examples,
        patience=patience,
        stop_at=stop_at,
        input_hidden=numbers("--input-hidden", input_hidden, int) or None,
        output_hidden=numbers("--output-hidden", output_hidden, int) or None,
        body_seed=body_seed,
        start=None if start_from is None else str(start_from),
    )
    configs = sweep.expand_sweep(config, lrs, seed_list)
    with distributed.join_processes(shard) as world:
        first, device = world.is_main, world.device(device)
        with watchers(out, quiet or not first, tensorboard and first) as shown:
            options = {"compile": compile, "watchers": shown, "world": world}
            group = sweep.run_sweep(configs, sweep.Place(out, data_dir, device, micro_batch, resume, **options))
    if world.is_main:
        _print_group(group, out)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    split: Annotated[str, typer.Option(help="train, val, or a test split.")] = "test",
    data_dir: DataDir = None,
    device: Device = "auto",
) -> None:
    """Score a trained program on a whole split."""
    from icecore.experiments import sweep
    from icecore.training.evaluation import evaluate as score

    model, task = sweep.open_run(run, data_dir, device)
    if split == "test" and "test" not in task.test_splits:
        splits: Sequence[str] = task.test_splits
    else:
        splits = [split]
    for name in splits:
        metric = float(score(model, task, name)[0])
        typer.echo(f"{name} {task.metric_name}: {metric:.4f} ({pluralize(task.split_size(name), 'example')})")


def attend(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Picture = None,
    examples: Annotated[int, typer.Option(help="Examples to average over.")] = 64,
    data_dir: DataDir = None,
    device: Device = "auto",
) -> None:
    """Average attention maps over examples and draw them."""
    from icecore.experiments import sweep
    from icecore.paper import attention_analysis as attention
    from icecore.tasks.bits import BitXor

    path = out or run / "attention.png"
    attention.picture_kind(path)  # before the work
    model, task = sweep.open_run(run, data_dir, device)
    found = attention.attention_maps(model, task, examples=examples)
    info = model.backbone.info
    attention.draw(found, path, f"{task.name} on {info.name} ({info.weights})", task)
    typer.echo(f"wrote {path}")
    if isinstance(task, BitXor):
        on = attention.xor_attention(found, task).summary()
        typer.echo(
            f"attention of the outputs on the two bits they need: mean {on['mean']:.1%}, best head {on['best']:.1%} "
            f"(layer {on['best_layer']}, head {on['best_head']}), uniform {on['uniform']:.1%}; on the first string's "
            f"bit alone at most {on['first_bit_best']:.1%}, {on['first_bit_ratio']:.1f} x uniform"
        )


def info(run: Annotated[Path, typer.Argument(help="A run folder or a program file.")]) -> None:
    """Show what a run or program is."""
    from icecore.experiments import sweep
    from icecore.model.program import Program
    from icecore.sharing import model_card as card

    if run.is_file():
        program = Program.load(run)
        if output().is_terminal:
            from rich.markdown import Markdown

            output().print(Markdown(card.page(program, run.stem)))
        else:
            typer.echo(card.card(program, run.stem))
        return
    table = new_table("", "")
    for name, value in sweep.describe_run(run).items():
        table.add_row(name, plain(str(value)))
    output().print(table)


def _print_group(group: dict[str, Any], out: Path) -> None:
    """One row a run, then what validation chose."""
    runs = group["runs"]
    table = new_table("run", "lr", "seed", "status", "best step", "train", "val", "test", "seconds")
    for s in runs:
        metrics = ("-" if s[k] is None else f"{s[k]:.2%}" for k in ("train_metric", "val_metric", "test_metric"))
        settings = (s["run_id"], f"{s['lr']:g}", str(s["seed"]), s["status"], f"{s['best_step']:,}")
        table.add_row(*settings, *metrics, f"{s['seconds']:.0f}")
    output().print(table)
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
