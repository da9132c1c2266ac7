"""The command that compares pretrained and random bodies on public data sets, beside published results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icecore.autofit.fit_settings import FitSettings
from icecore.cli.console import echo, new_table, print_text, stdout, training_displays
from icecore.cli.option_values import read_list, read_numbers
from icecore.cli.options import SELECTION, Device, Quiet, ResultsFolder
from icecore.core.config import TRAINING
from icecore.core.errors import ConfigError

if TYPE_CHECKING:
    from icecore.experiments.results import RunRecord

OnlySets = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Only these data sets, for example GunPoint,OSULeaf.", rich_help_panel=SELECTION),
]
Minutes = Annotated[float, typer.Option(help="Time of each fit, which trains all seeds.", rich_help_panel=TRAINING)]
Seeds = Annotated[str, typer.Option(metavar="LIST", help="Seeds of each fit.", rich_help_panel=TRAINING)]
Body = Annotated[str, typer.Option(help="The body to use.", rich_help_panel=SELECTION)]
Weights = Annotated[
    str, typer.Option(metavar="LIST", help="Weights of the body to compare.", rich_help_panel=SELECTION)
]


def ucr(
    only: OnlySets = None,
    minutes: Minutes = 3.0,
    seeds: Seeds = "0,1,2",
    body: Body = "minilm",
    weights: Weights = "pretrained,random",
    device: Device = "auto",
    out: ResultsFolder = Path("results"),
    quiet: Quiet = False,
) -> None:
    """Fit the time series data sets that aeon ships, beside published accuracies. Finished fits are not repeated."""
    numbers = tuple(read_numbers("--seeds", seeds, int))
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"--seeds names a seed twice: {seeds}. Name each of them once.")
    all_settings = [
        FitSettings(backbone=body, weights=each, minutes=minutes, seeds=numbers)
        for each in dict.fromkeys(read_list(weights))
    ]
    if not all_settings:
        raise ConfigError("--weights is empty. Name the weights to compare, for example pretrained,random.")
    from icecore.autofit.archive_benchmark import STUDY, run_archive_benchmark, select_sets

    names = select_sets(read_list(only or ""))
    file = out / f"{STUDY}.jsonl"
    with training_displays(out / STUDY, quiet) as displays:
        records = run_archive_benchmark(names, all_settings, file, echo, device, displays)
    _show_table(records, file)


def _show_table(records: Sequence["RunRecord"], file: Path) -> None:
    """Print the table of these records, and write that of all records of their budget and body as Markdown."""
    from icecore.autofit.archive_benchmark import ARCHIVE_SETS, published_accuracies
    from icecore.core.storage import write_atomic
    from icecore.experiments.results import read_records
    from icecore.report.archive_table import archive_markdown, archive_table

    published = {name: published_accuracies(name) for name in ARCHIVE_SETS}
    header, *lines = archive_table(records, published)
    table = new_table(*header)
    for line in lines:
        table.add_row(*line)
    stdout().print(table)
    key = records[0].key
    same = [each for each in read_records(file)[0] if (each.key.budget, each.key.body) == (key.budget, key.body)]
    same.sort(key=lambda record: ARCHIVE_SETS.index(record.key.column))
    text = archive_markdown(same, published)
    page = file.with_suffix(".md")
    write_atomic(page, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print_text(f"Accuracies in %. The runs are in {file}, and the table of all of them in {page}.")
