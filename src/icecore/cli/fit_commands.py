"""Commands for your own data: fit and predict."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape as plain

from icecore.cli.console import new_table, training_displays
from icecore.cli.console import stdout as output
from icecore.cli.option_values import read_list as split
from icecore.cli.option_values import read_numbers
from icecore.cli.options import Device, Quiet
from icecore.core.errors import ConfigError
from icecore.core.text import pluralize

if TYPE_CHECKING:
    from icecore.autofit.fit_result import FitResult, ModelResult

Body = Annotated[str, typer.Option(help="A name of `icecore backbones`, a folder, a GGUF file or org/model.")]
Weights = Annotated[str, typer.Option(help="pretrained, random, statistics, or a weights file.")]
Layers = Annotated[int | None, typer.Option(help="Use only the first layers of the body.")]
StartFrom = Annotated[Path | None, typer.Option(help="Begin with what a program on this body has learned.")]
Data = Annotated[Path, typer.Argument(help="Images (folder, archive, table), CSV, Parquet, .npy/.npz, FASTA or text.")]


def fit(
    data: Data,
    out: Annotated[Path, typer.Option(help="The program file to write.")] = Path("program.safetensors"),
    target: Annotated[str | None, typer.Option(help="Column(s) to predict (else label, target or the last).")] = None,
    minutes: Annotated[float, typer.Option(help="Time for the sweep; controls take about as long again.")] = 5.0,
    controls: Annotated[bool, typer.Option("--controls", help="Also a random body, no body and scikit-learn.")] = False,
    backbone: Body = "minilm",
    weights: Weights = "pretrained",
    layers: Layers = None,
    lr: Annotated[str | None, typer.Option(help="Learning rates to sweep.")] = None,
    seeds: Annotated[str, typer.Option(help="Seed, or several: then --controls compares means over them.")] = "0",
    steps: Annotated[int | None, typer.Option(help="Steps of each run, in place of --minutes.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a step of each run.")] = 16,
    start_from: StartFrom = None,
    task: Annotated[str, typer.Option(help="auto, classification or regression.")] = "auto",
    kind: Annotated[str, typer.Option(help="auto, images, table, array, series, strings or fasta.")] = "auto",
    column: Annotated[str | None, typer.Option(help="The column that holds sequences of characters.")] = None,
    series: Annotated[str | None, typer.Option(help="The column that says which series a row belongs to.")] = None,
    time: Annotated[str | None, typer.Option(help="The column that orders the rows of a series.")] = None,
    values: Annotated[str | None, typer.Option(help="The columns of measured values.")] = None,
    drop: Annotated[str | None, typer.Option(help="Columns to leave out.")] = None,
    patch: Annotated[int | None, typer.Option(help="Side of an image patch; columns or points a token.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the squares that images become.")] = None,
    length: Annotated[int | None, typer.Option(help="Longest sequence kept.")] = None,
    val: Annotated[float, typer.Option(help="Share of rows to validate on (at most 10,000).")] = 0.15,
    test: Annotated[float, typer.Option(help="Share of rows to test on (at most 10,000).")] = 0.15,
    max_rows: Annotated[int | None, typer.Option(help="Larger tables are sampled.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what would be skipped and counted.")] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show the plan.")] = False,
    precision: Annotated[str, typer.Option(help="auto, fast, fp32, bf16, int8.")] = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Fit a program to your own data: find out what they are, sweep, stop early, say what came of it."""
    from icecore import user_data as own
    from icecore.autofit import fit as fitting
    from icecore.autofit.fit_settings import DEFAULT_LRS, FitSettings

    settings = own.DataSettings(
        target=tuple(split(target or "")),
        task=task,  # type: ignore[arg-type]
        kind=kind,  # type: ignore[arg-type]
        column=column,
        series=series,
        time=time,
        values=tuple(split(values or "")),
        patch=patch,
        size=size,
        length=length,
        val=val,
        test=test,
        strict=strict,
        max_rows=max_rows,
        drop=tuple(split(drop or "")),
    )
    how = FitSettings(
        backbone=backbone,
        weights=weights,
        layers=layers,
        lrs=tuple(read_numbers("--lr", lr or "", float)) or DEFAULT_LRS,
        seeds=tuple(read_numbers("--seeds", seeds, int)) or (0,),
        batch_size=batch_size,
        minutes=minutes,
        steps=steps,
        precision=precision,
        start=None if start_from is None else str(start_from),
        controls=controls,
    )
    _apart(out, data)
    plan = own.plan(data, settings)
    if not quiet or plan_only:
        table = new_table("", "")
        for what, words in plan.describe():
            table.add_row(what, plain(words))
        output().print(table)
    if plan_only:
        return
    with training_displays(out.parent, quiet, False) as shown:
        fitted = fitting.fit(plan.task(), how, out, {"encoder": plan.encoder.to_json()}, device, shown)
    _print_fitted(fitted, out)


def _apart(out: Path, *read: Path) -> None:
    """Refuse to write over what is read."""
    if any(path.exists() and out.exists() and out.samefile(path) for path in read):
        raise ConfigError(f"--out {out}: is what is read, and would be lost; name another")


def _print_fitted(fitted: "FitResult", out: Path) -> None:
    results = (fitted.result, *fitted.controls)
    several = any(len(result.seeds) > 1 for result in results)
    where = f"{fitted.metric_name} on {pluralize(len(fitted.result.scores), f'{fitted.split} row')}"
    columns = (f"{where}, mean over seeds", "of the best by validation") if several else (where,)
    table = new_table("", *columns, "learning rate", "seconds")
    for result in results:
        values = (_mean(result, fitted.metric_name), _best(result, fitted.metric_name))
        lr = "" if result.seeds_lr is None else f"{result.seeds_lr:g}"
        table.add_row(plain(result.name), *values[: len(columns)], lr, f"{result.seconds:.0f}")
    output().print(table)
    if several:
        best = "the program written is the best by validation of the first row"
        output().print(f"mean ± standard error over seeds, at the learning rate shown; {best}", highlight=False)
    if fitted.verdict:
        output().print(fitted.verdict, highlight=False)
    typer.echo(f"wrote {out}; `icecore predict {out} DATA` uses it, `icecore info {out}` says what it is")


def _mean(result: "ModelResult", metric: str) -> str:
    """Over seeds; the error where there are several."""
    unit, scale, digits = ("", 1, 3) if metric == "r2" else ("%", 100, 1)
    error = math.sqrt(result.variance_of_mean or 0.0) if len(result.seeds) > 1 else None
    return (
        f"{scale * result.mean_metric:.{digits}f}" + ("" if error is None else f" ± {scale * error:.{digits}f}") + unit
    )


def _best(result: "ModelResult", metric: str) -> str:
    """Of the one training that validation finds best; which one it is."""
    if result.seed is None:
        return ""
    value = f"{result.metric:.3f}" if metric == "r2" else f"{result.metric:.1%}"
    return f"{value} (seed {result.seed}{'' if result.lr == result.seeds_lr else f', learning rate {result.lr:g}'})"


def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="PROGRAM... DATA", help="Program files, then the data.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write, or a folder: PROGRAM.csv each.")] = None,
    score: Annotated[bool, typer.Option("--score", help="Refuse data that cannot be scored.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what would be skipped and counted.")] = False,
    device: Device = "auto",
) -> None:
    """Predict new rows; several programs on one body share its passes."""
    from icecore.autofit.predict import predict as say

    *programs, data = paths
    if not programs:
        raise ConfigError("name a program and the data: icecore predict my.safetensors DATA")
    several = len(programs) > 1
    if out is not None and len({path.stem for path in programs}) < len(set(programs)):
        raise ConfigError("programs of one name would write one file; copy one of them to another name, or leave --out")
    if out is not None:
        _apart(out, *paths)
        several = several or out.is_dir()
    for path, found in say(programs, data, device, score, strict).items():
        for what, words in found.notes:
            typer.echo(f"{what}: {words}", err=True)
        if out is None:
            if len(programs) > 1:
                typer.echo(f"# {path}")
            typer.echo(found.to_csv(), nl=False)
        else:
            place = out / f"{path.stem}.csv" if several else out
            found.save(place)
            typer.echo(f"wrote {place}: {pluralize(len(found.names), 'row')}")
        if found.score is not None:
            typer.echo(
                f"{path.name}: {found.metric_name} {found.score:.4f} on {pluralize(len(found.names), 'row')}", err=True
            )
