"""Commands that train many runs and report them: the paper's tables, grid files, the report."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from icecore.cli.claims_output import show_claims
from icecore.cli.console import echo, new_table, print_text, stdout, training_displays
from icecore.cli.option_values import read_list
from icecore.cli.options import (
    SELECTION,
    TRAINING,
    DataDir,
    Device,
    DryRun,
    Precision,
    Quiet,
    Race,
    RayAddress,
    RayCpus,
    RayGpus,
    ResultsFolder,
    Resume,
)
from icecore.core.errors import ConfigError
from icecore.core.protocols import DEFAULT_PROTOCOL
from icecore.core.text import approximate_duration, list_in_words, pluralize

#: seconds of work beyond which a plan says that the machine is too small for it
TOO_LONG = 90 * 86400

TableNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="TABLE", help="Tables or figures that --list names, or `all`."),
]
ShowList = Annotated[bool, typer.Option("--list", help="List the tables and budgets.", rich_help_panel=SELECTION)]
BudgetName = Annotated[
    str, typer.Option(help="How much to compute: smoke, cpu, overnight or full.", rich_help_panel=SELECTION)
]
ProtocolName = Annotated[
    str,
    typer.Option(
        help="How runs are trained and scored: fast, fair, or paper (the published settings with their faults).",
        rich_help_panel=SELECTION,
    ),
]
OnlyTasks = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Only these tasks, for example mnist,bit-xor.", rich_help_panel=SELECTION),
]
OnlyRows = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Only these rows, for example pretrained,random.", rich_help_panel=SELECTION),
]
RaceOfBudget = Annotated[
    bool | None,
    typer.Option(
        "--race/--no-race",
        help="Stop learning rates that are behind after 1/10, 1/4 and 3/5 of the steps, or train all to the end.",
        rich_help_panel=TRAINING,
        show_default="as the budget says",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        help="Train only as many cells as fit into this time, the most informative ones first.",
        rich_help_panel=SELECTION,
        show_default="all",
    ),
]
BodyName = Annotated[
    str | None, typer.Option(help="A body to use in place of the budget's.", rich_help_panel=SELECTION)
]

ShowClaims = Annotated[
    bool,
    typer.Option(
        "--claims", help="Show which claims the results support. Nothing is trained.", rich_help_panel=SELECTION
    ),
]
ClaimsPage = Annotated[
    Path | None,
    typer.Option(
        "--write",
        metavar="FILE",
        help="With --claims: write them into this Markdown file, between its two comments.",
        rich_help_panel=SELECTION,
    ),
]


def paper(
    tables: TableNames = None,
    show_list: ShowList = False,
    claims: ShowClaims = False,
    write: ClaimsPage = None,
    budget: BudgetName = "smoke",
    protocol: ProtocolName = DEFAULT_PROTOCOL,
    only: OnlyTasks = None,
    rows: OnlyRows = None,
    body: BodyName = None,
    race: RaceOfBudget = None,
    minutes: Minutes = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    precision: Precision = "auto",
    ray: RayAddress = None,
    cpus: RayCpus = 1,
    gpus: RayGpus = None,
    out: ResultsFolder = Path("results"),
    data_dir: DataDir = None,
    resume: Resume = True,
    quiet: Quiet = False,
) -> None:
    """Reproduce tables of the paper, beside the published numbers. Finished runs are not trained again."""
    from icecore.paper import planning
    from icecore.paper.budgets import races_by_default
    from icecore.training.context import ExecutionContext

    if write is not None and not claims:
        raise ConfigError("--write says where the claims are written. Add --claims.")
    if claims:
        if tables:
            raise ConfigError(f"--claims reads all results and trains nothing. Leave out {' '.join(tables)}.")
        if only or rows or body or minutes is not None or dry_run:
            raise ConfigError(
                "--claims decides every claim. Leave out --only, --rows, --body, --minutes and --dry-run."
            )
        show_claims(out, write)
        return
    if show_list or not tables:
        _list_tables()
        return
    names = planning.select_studies(tables)
    race = races_by_default(budget) if race is None else race
    request = planning.TableRequest(
        budget, protocol, read_list(only or ""), read_list(rows or ""), body, precision, device, race
    )
    plans = {name: planning.plan_table(name, request, out) for name in names}
    context = ExecutionContext(out / "runs", data_dir, device, resume=resume, race=race)
    _run_plans(plans, out, context, _ray_options(ray, cpus, gpus), dry_run, quiet, minutes)


def grid(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A TOML file in which any setting of a run can be a list of values.")
    ],
    race: Race = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    ray: RayAddress = None,
    cpus: RayCpus = 1,
    gpus: RayGpus = None,
    out: ResultsFolder = Path("results"),
    data_dir: DataDir = None,
    resume: Resume = True,
    quiet: Quiet = False,
) -> None:
    """Train every combination of the settings in a grid file. Finished runs are not trained again."""
    from icecore.experiments.grid_file import read_grid
    from icecore.training.context import ExecutionContext

    cells = read_grid(file, device, race)
    context = ExecutionContext(out / "runs", data_dir, device, resume=resume, race=race)
    _run_plans({cells[0].key.study: cells}, out, context, _ray_options(ray, cpus, gpus), dry_run, quiet)


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A folder of results or of runs, or one results file.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="`report` in the results folder")
    ] = None,
    submit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write no report, but check somebody's results file and add it to RESULTS, for the leaderboard.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Who made the results that are submitted.", show_default="the name of the file"
        ),
    ] = None,
) -> None:
    """Write tables, plots and one HTML page that needs no network from results, or add somebody else's results."""
    from icecore.experiments.results import read_records
    from icecore.report import write_report
    from icecore.report.submission import add_submission, read_submitted

    if submit is not None:
        if out is not None:
            raise ConfigError("--submit adds results and writes no report. Leave --out out.")
        echo(add_submission(submit, results, by or ""))
        return
    if by is not None:
        raise ConfigError("--by says who made the results that are submitted. Add --submit FILE.")
    records, problems = read_records(results)
    folder = results if results.is_dir() else results.parent
    submitted, more_problems = read_submitted(folder) if results.is_dir() else ({}, [])
    problems += more_problems
    for problem in problems:
        echo(problem, error=True)
    echo(f"Drawing the tables and plots of {pluralize(len(records), 'run')}.", error=True)
    for path in write_report(records, problems, out or folder / "report", folder, submitted):
        echo(path)


def _list_tables() -> None:
    """Print the tables, then the budgets."""
    from icecore.paper.budgets import BUDGETS
    from icecore.paper.paper_tables import STUDIES

    table = new_table("table", "what it shows", "rows x columns")
    for name, study in STUDIES.items():
        table.add_row(name, escape(f"{study.title}. {study.question}"), f"{len(study.rows)} x {len(study.columns)}")
    stdout().print(table)
    table = new_table("budget", "what it is", "body", "learning rates", "seeds")
    for name, budget in BUDGETS.items():
        lrs = ", ".join(f"{lr:g}" for lr in budget.lrs)
        table.add_row(name, budget.summary, budget.bodies["body"], lrs, str(len(budget.seeds)))
    stdout().print(table)


def _ray_options(address: str | None, cpus: int, gpus: float | None) -> Any:
    """The Ray cluster to train on; None to train in this process. Raises ConfigError."""
    if address is not None:
        from icecore.experiments.ray_executor import RayOptions

        return RayOptions(address, cpus, gpus)
    if cpus != 1 or gpus is not None:
        raise ConfigError("--cpus and --gpus say what each pack gets on a Ray cluster. Add --ray to use one.")
    return None


def _run_plans(
    plans: Mapping[str, Sequence[Any]],
    out: Path,
    context: Any,
    ray: Any,
    dry_run: bool,
    quiet: bool,
    minutes: float | None = None,
) -> None:
    """Print what each plan still needs. Unless `dry_run`, train it and print its tables.

    minutes  train only as many cells of all plans as fit into this time
    """
    from icecore.experiments import study
    from icecore.experiments.time_limit import TimeLimit

    limit = None if minutes is None else TimeLimit(60 * minutes)
    with contextlib.ExitStack() as stack:
        executor: Any = None
        for name, cells in plans.items():
            if not cells:
                print_text(f"{name}: No cell of this table matches the requested tasks and rows.")
                continue
            unfinished = study.unfinished_cells(cells, out, context.device, context.resume, context.race)
            print_text(_describe_plan(name, cells, unfinished))
            if limit is not None and unfinished:
                passed_over = {cell.key for cell, _ in unfinished}
                unfinished = limit.take(cells, unfinished)
                print_text(_describe_choice(name, unfinished))
                passed_over -= {cell.key for cell, _ in unfinished}
                cells = [cell for cell in cells if cell.key not in passed_over]
            if dry_run:
                if unfinished:
                    durations = {cell.key: approximate_duration(seconds) for cell, seconds in unfinished}
                    stdout().print(_plan_table(cells, durations))
                    _print_missing([cell for cell, _ in unfinished], context)
                continue
            _print_missing([cell for cell, _ in unfinished], context)
            if unfinished and executor is None:
                executor = stack.enter_context(_executor(context, ray, quiet))
            _print_tables(study.run_study(cells, out / f"{name}.jsonl", context, echo, executor))
    if limit is not None:
        limit.check()
    if not dry_run:
        print_text(f"The results are in {out}. `icecore report {out}` makes tables, plots and a page of them.")


def _print_missing(cells: Sequence[Any], context: Any) -> None:
    """Say which weights, data and packages these cells need and lack, before anything is trained."""
    from icecore.core.errors import UserError
    from icecore.core.pictures import require_drawing
    from icecore.experiments.missing import missing_inputs

    sentences = missing_inputs([cell.sweep.config for cell in cells], context.data_dir)
    if any(cell.analysis is not None for cell in cells):
        try:
            require_drawing()
        except UserError as error:
            sentences.append(str(error))
    for sentence in sentences:
        print_text(sentence)


def _describe_plan(name: str, cells: Sequence[Any], unfinished: Sequence[Any]) -> str:
    """One line: how many cells a plan has, and what is left to train."""
    budget = cells[0].key.budget
    size = f"{name}{budget and f', budget {budget}'}: {pluralize(len(cells), 'cell')}"
    if not unfinished:
        return f"{size}, all finished"
    n_finished = len(cells) - len(unfinished)
    finished = f", {n_finished} of them finished" if n_finished else ""
    runs = pluralize(sum(len(cell.sweep) for cell, _ in unfinished), "run")
    seconds = sum(seconds for _, seconds in unfinished)
    advice = ", far more than this machine can do: see docs/scaling.md, or a smaller --budget" * (seconds > TOO_LONG)
    return f"{size}{finished}; {runs} to train, {approximate_duration(seconds)}{advice}"


def _describe_choice(name: str, fitting: Sequence[Any]) -> str:
    """Which unfinished cells of a table fit into the time that is left."""
    if not fitting:
        return f"No unfinished cell of {name} fits into the time that is left."
    titles = [f"{cell.key.row} on {cell.key.column}" for cell, _ in fitting]
    planned = approximate_duration(sum(seconds for _, seconds in fitting))
    verb = "fits" if len(fitting) == 1 else "fit"
    return f"{pluralize(len(fitting), 'cell')} of them {verb} into the time, {planned}: {list_in_words(titles)}."


@contextlib.contextmanager
def _executor(context: Any, ray: Any, quiet: bool) -> Iterator[Any]:
    """What trains the packs: this process, with a display, or a cluster, with a line for each pack."""
    if ray is None:
        from icecore.experiments.executor import LocalExecutor

        with training_displays(context.out, quiet) as displays:
            yield LocalExecutor(replace(context, callbacks=displays))
    else:
        from icecore.experiments.ray_executor import ray_executor

        log: Callable[[str], None] = (lambda line: None) if quiet else functools.partial(echo, error=True)
        with ray_executor(context, ray, log) as executor:
            yield executor


def _plan_table(cells: Sequence[Any], durations: Mapping[Any, str]) -> Any:
    """A table of how long each cell takes, or that it is finished."""
    columns = list(dict.fromkeys(cell.key.column for cell in cells))
    table = new_table("to train", *map(escape, columns))
    for row in dict.fromkeys(cell.key.row for cell in cells):
        keys = {cell.key.column: cell.key for cell in cells if cell.key.row == row}
        entries = (durations.get(keys[column], "finished") if column in keys else "" for column in columns)
        table.add_row(escape(row), *entries)
    return table


def _print_tables(records: Sequence[Any]) -> None:
    """Print the tables of results, the published numbers below ours."""
    from icecore.report.cell_text import cell_text, count_text, marks_text, published_text
    from icecore.report.result_tables import build_tables

    for result in build_tables(records):
        unit = result.quantity.unit
        columns = [column for column in result.columns if _has_run(result, column.name)]
        names = (escape(column.name) for column in columns)
        table = new_table(escape(result.quantity.caption), "trained", "frozen", *names)
        if not columns:
            print_text(f"{result.quantity.caption}: no run of this table has finished yet.")
            continue
        for row in result.rows:
            entries = []
            for cell in (row.cells[column.name] for column in columns):
                published = published_text(cell, unit)
                entry = escape(cell_text(cell, unit) + marks_text(result.marks(cell)))
                entries.append(entry + (f"\n[dim]({escape(published)})[/]" if published else ""))
            table.add_row(escape(row.label), count_text(row.trained), count_text(row.frozen), *entries)
        stdout().print(table)
        if any(cell.numbers[0].published for cell in result.cells):
            print_text("Published numbers are in parentheses.")
        for warning in result.warnings:
            print_text(f"Mixed: {warning}")
        for number, note in enumerate(result.notes, start=1):
            print_text(f"{number} {note}")


def _has_run(table: Any, column: str) -> bool:
    return any(row.cells[column].state != "not run" for row in table.rows)
