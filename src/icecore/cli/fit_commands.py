"""Commands for your own data: fit and predict."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from icecore.autofit.fit_settings import FitSettings
from icecore.cli.console import echo, new_table, print_rows, print_text, stdout, training_displays
from icecore.cli.option_values import keep_standard_input, read_hub_access
from icecore.cli.options import FILES, Device, Download, Quiet, SendToken, ServerUrl, Strict, TokenFile
from icecore.cli.setting_options import with_settings
from icecore.core.errors import ConfigError, DataError
from icecore.core.settings import from_values
from icecore.core.text import metric_text, pluralize
from icecore.user_data.data_settings import DataSettings

if TYPE_CHECKING:
    from icecore.autofit.fit_result import FitResult, ModelResult
    from icecore.autofit.predict import Predictions
    from icecore.user_data.data_plan import Plan


@with_settings(FitSettings, "fit_values")
@with_settings(DataSettings, "data_values", names={"seed": "--split-seed"})
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Your data: images (a folder, an archive or a table that lists them), CSV, Parquet, .npy, .npz, FASTA "
            "or text.",
        ),
    ],
    *,
    data_values: dict[str, Any],
    fit_values: dict[str, Any],
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Program file to write.", rich_help_panel=FILES)] = Path(
        "program.safetensors"
    ),
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only show what was inferred about the data.", rich_help_panel=FILES)
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Also write a page with verdict, plan, curves and errors.",
            show_default="no page",
            rich_help_panel=FILES,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fit a program to your own data. What you do not specify is inferred."""
    data_settings, fit_settings = from_values(DataSettings, data_values), from_values(FitSettings, fit_values)
    from icecore import user_data
    from icecore.autofit.fit import fit as fit_program

    data = keep_standard_input(data)
    _check_outputs(out, report, data, fit_settings)
    plan = user_data.plan(data, data_settings)
    if plan_only or not quiet:
        _print_plan(plan)
    if plan_only:
        return
    with training_displays(out.parent, quiet) as displays:
        result = fit_program(plan.task(), fit_settings, out, {"encoder": plan.encoder.to_json()}, device, displays)
    _print_fit(result, out, plan.encoder.forecast is not None)
    _write_page(report, result, plan)
    if plan.encoder.forecast is not None:
        _print_forecast(out, data, device)


def _refuse_inputs(out: Path, *inputs: Path) -> None:
    """Raise ConfigError if `out` is read with one of the inputs."""
    from icecore.user_data.input_files import check_not_input

    check_not_input(out, *inputs)


def _check_outputs(out: Path, report: Path | None, data: Path, settings: FitSettings) -> None:
    """Raise ConfigError if an output of a fit is read by it, or both outputs are one file."""
    programs = [Path(name) for name in (settings.start, settings.weights) if name is not None]
    for path in filter(None, (out, report)):
        _refuse_inputs(path, data, *(each for each in programs if each.is_file()))
    if report is not None and report.resolve() == out.resolve():
        raise ConfigError(f"--out and --report would write to one file, {out}. Name two files.")


def _print_plan(plan: "Plan") -> None:
    """Print what was found out about the data, a line for each topic."""
    table = new_table("", "")
    for name, text in plan.describe():
        table.add_row(name, escape(text))
    stdout().print(table)


def _print_forecast(program: Path, data: Path, device: str) -> None:
    """Print how good the forecasts of the test origins are."""
    from icecore.autofit.predict import predict as predict_rows

    for name, text in predict_rows([program], data, device)[program].notes:
        print_text(f"{name}: {text}")


def _write_page(path: Path | None, result: "FitResult", plan: "Plan") -> None:
    """Write the page of a fit, if it is wanted: verdict, plan, curves and errors. Raises StorageError."""
    if path is None:
        return
    from icecore.core.storage import write_atomic
    from icecore.report.fit_page import render_fit_page

    page = render_fit_page(result, plan.describe(), plan.encoder.target)
    write_atomic(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    print_text(f"Wrote {path}.")


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PROGRAM... DATA", help="One or more program files, then the data with the new rows."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="CSV file to write, or a folder for one PROGRAM.csv for each program.", show_default="print the rows"
        ),
    ] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Stop with an error if the data have no targets to score.")
    ] = False,
    strict: Strict = False,
    download: Download = False,
    token: SendToken = False,
    device: Device = "auto",
    url: ServerUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Predict new rows. Several programs on one body share its passes."""
    hub = read_hub_access(download, token)
    *programs, data = paths
    data = keep_standard_input(data)
    if not programs:
        raise ConfigError("Name a program and the data, for example: icecore predict my.safetensors DATA")
    if out is not None:
        _check_out(out, programs, data)
    in_folder = out is not None and (len(programs) > 1 or out.is_dir())
    tables = {path: out / f"{path.stem}.csv" if in_folder else out for path in programs} if out is not None else {}
    for table in tables.values():
        _refuse_inputs(table, *programs, data)
    if url is None:
        from icecore.autofit.predict import predict as predict_rows

        results = predict_rows(programs, data, device, score, strict, hub)
    else:
        results = _ask_server(url, token_file, programs, data, score, strict)
    for path, predictions in results.items():
        _print_notes(predictions, path, data)
        if out is None:
            _print_predictions(predictions, title=str(path) if len(programs) > 1 else None)
        else:
            _save_predictions(predictions, tables[path], data)
        if predictions.score is not None:
            rows = pluralize(len(predictions.names), "row")
            value = metric_text(predictions.score, predictions.metric_name)
            echo(f"{path.name}: {predictions.metric_name} {value} on {rows}", error=True)


def _print_notes(predictions: "Predictions", program: Path, data: Path) -> None:
    """Print what was found out about the rows. Raises DataError if none of the series can be forecast."""
    for name, text in predictions.notes:
        echo(f"{name}: {text}", error=True)
    if not len(predictions.names):
        raise DataError(
            f"{data}: no series has the rows that {program.name} needs to forecast it, see the lines above."
        )


def _save_predictions(predictions: "Predictions", path: Path, data: Path) -> None:
    """Write the table of a program's predictions, and the plot of forecasts. Raises StorageError, ConfigError."""
    predictions.save(path)
    echo(f"Wrote {pluralize(len(predictions.names), 'row')} to {path}.")
    if predictions.forecasts:
        plot = path.with_suffix(".png")
        _refuse_inputs(plot, data)
        _plot_forecasts(predictions, plot)


def _plot_forecasts(predictions: "Predictions", path: Path) -> None:
    """Write a plot of the forecasts beside their table, if matplotlib is there."""
    from icecore.report.forecast_plot import plot_forecasts

    try:
        plot_forecasts(predictions.forecasts, path)
    except ImportError:
        echo("There is no plot, because matplotlib is missing: pip install 'icecore[plot]'", error=True)
    else:
        echo(f"Wrote a plot to {path}.")


def _ask_server(
    url: str, token_file: Path | None, programs: Sequence[Path], data: Path, score: bool, strict: bool
) -> dict[Path, "Predictions"]:
    """The predictions of a server's programs, which may be named by their files. Raises ServerError, DataError."""
    from icecore.serving.access import read_token
    from icecore.serving.client import Client

    client = Client(url, None if token_file is None else read_token(token_file))
    names = {path: path.stem if path.suffix == ".safetensors" else str(path) for path in programs}
    results = {path: client.predict(name, data, strict) for path, name in names.items()}
    if score and any(predictions.score is None for predictions in results.values()):
        raise DataError(f"{data} has no targets, or not those of the program, so the predictions cannot be scored.")
    return results


def _check_out(out: Path, programs: Sequence[Path], data: Path) -> None:
    """Raise ConfigError if `out` is a file that is read, or two programs would write to one file in it."""
    _refuse_inputs(out, *programs, data)
    if len({path.stem for path in programs}) < len(set(programs)):
        raise ConfigError(
            "Several programs have the same name, so their predictions would be written to the same file. "
            "Rename one of the programs, or leave out --out."
        )


def _print_predictions(predictions: "Predictions", title: str | None) -> None:
    if title is not None:
        echo(f"# {title}")
    echo(predictions.to_csv(), end="")


def _print_fit(result: "FitResult", out: Path, is_forecast: bool) -> None:
    """Print the metrics of the program and its controls, then the verdict."""
    models = (result.result, *result.controls)
    several_seeds = any(len(model.seeds) > 1 for model in models)
    recommendation, _, explanation = result.verdict.partition("\n")
    if recommendation:
        print_text(recommendation)
    metric = "R² beyond naive" if is_forecast else result.metric_name.replace("r2", "R²")
    columns = (f"mean {metric}", "best by validation") if several_seeds else (metric,)
    rows: list[tuple[str, ...]] = []
    for model in models:
        values = (_mean_text(model, result.metric_name), _best_text(model, result.metric_name))
        lr = "" if model.seeds_lr is None else f"{model.seeds_lr:g}"
        rows.append((model.name, *values[: len(columns)], _steps_text(model), lr, f"{model.seconds:.0f}"))
    scored = pluralize(len(result.result.scores), f"{result.split} row")
    print_rows((f"on {scored}", *columns, "best step", "learning rate", "seconds"), rows)
    if several_seeds:
        print_text(
            "Means have their standard error over seeds and are at the learning rate shown. The program that was "
            "written is the first row's best by validation."
        )
    if is_forecast:
        print_text(
            "This R² is that of the differences from the seasonal naive forecast, which may be small or mostly noise. "
            "Judge the forecasts by MASE and sMAPE below: both are errors, so less is better."
        )
    if explanation:
        print_text(explanation)
    print_text(f"Wrote {out}. `icecore predict {out} DATA` predicts new rows, and `icecore info {out}` describes it.")


def _steps_text(model: "ModelResult") -> str:
    """The step of the state that is kept, of how many; step 0 is the closed-form start."""
    return "" if model.steps is None else f"{model.best_step or 0:,} of {model.steps:,}"


def _mean_text(model: "ModelResult", metric: str) -> str:
    """The mean metric over seeds, with its standard error if there are several."""
    unit, scale, digits = ("", 1, 3) if metric == "r2" else (" %", 100, 1)
    mean = f"{scale * model.mean_metric:.{digits}f}"
    if len(model.seeds) > 1:
        mean += f" ± {scale * math.sqrt(model.variance_of_mean or 0.0):.{digits}f}"
    return mean + unit


def _best_text(model: "ModelResult", metric: str) -> str:
    """The metric of the training that validation finds best, and which training it is; empty for baselines."""
    if model.seed is None:
        return ""
    value = metric_text(model.metric, metric).removeprefix("R² ")
    lr = "" if model.lr == model.seeds_lr else f", learning rate {model.lr:g}"
    return f"{value} (seed {model.seed}{lr})"
