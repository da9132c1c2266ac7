"""Commands about many runs: the paper's tables, grids of one's own, the report."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from icecore.cli.console import new_table, output, plain, split, watchers
from icecore.cli.options import Cpus, DataDir, Device, DryRun, Gpus, Protocol, Quiet, Ray, Results, Resume
from icecore.core.errors import ConfigError
from icecore.core.text import approximate_duration, pluralize


def paper(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables or figures of --list; `all` for all.")] = None,
    show: Annotated[bool, typer.Option("--list", help="List tables and budgets.")] = False,
    budget: Annotated[str, typer.Option(help="smoke, cpu or full.")] = "smoke",
    protocol: Protocol = "fair",
    only: Annotated[str | None, typer.Option(help="Only these tasks, e.g. mnist,bit-xor.")] = None,
    rows: Annotated[str | None, typer.Option(help="Only these rows, e.g. pretrained,random.")] = None,
    body: Annotated[str | None, typer.Option(help="A body in place of the budget's.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")] = "auto",
    data_dir: DataDir = None,
    out: Results = Path("results"),
    device: Device = "auto",
    resume: Resume = True,
    ray: Ray = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Make tables of the paper: ours beside the published numbers, packed, resumable."""
    from icecore.experiments.sweep import Place
    from icecore.paper import tables as papers

    if show or not tables:
        _list_tables()
        return
    chosen = papers.names(tables)
    request = papers.TableRequest(budget, protocol, split(only or ""), split(rows or ""), body, precision, device)
    plans = {name: papers.plan(name, request, out) for name in chosen}
    _make(plans, out, Place(out / "runs", data_dir, device, resume=resume), _nodes(ray, cpus, gpus), dry_run, quiet)


def grid(
    file: Annotated[Path, typer.Argument(help="A TOML file; any field of a run's configuration can be a list.")],
    data_dir: DataDir = None,
    out: Results = Path("results"),
    device: Device = "auto",
    resume: Resume = True,
    ray: Ray = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train every combination of a file's settings, packed, resumable."""
    from icecore.experiments import grid_file as gridfile
    from icecore.experiments.sweep import Place

    cells = gridfile.read(file, device)
    place = Place(out / "runs", data_dir, device, resume=resume)
    _make({cells[0].spot.study: cells}, out, place, _nodes(ray, cpus, gpus), dry_run, quiet)


def _list_tables() -> None:
    """Tables, then budgets."""
    from icecore.paper.budgets import BUDGETS
    from icecore.paper.tables import STUDIES

    table = new_table("table", "what it shows", "rows x columns")
    for name, study in STUDIES.items():
        table.add_row(name, plain(f"{study.title}. {study.shows}"), f"{len(study.rows)} x {len(study.columns)}")
    output().print(table)
    table = new_table("budget", "what it is", "body", "learning rates", "seeds")
    for name, budget in BUDGETS.items():
        lrs = ", ".join(f"{lr:g}" for lr in budget.lrs)
        table.add_row(name, budget.summary, budget.bodies["body"], lrs, str(len(budget.seeds)))
    output().print(table)


def _nodes(ray: str | None, cpus: int, gpus: float | None) -> Any:
    """The cluster asked for, as `cluster.Nodes`; None for none."""
    if ray is not None:
        from icecore.experiments.ray_executor import Nodes

        return Nodes(ray, cpus, gpus)
    if cpus != 1 or gpus is not None:
        raise ConfigError("--cpus and --gpus are what each pack is given on a Ray cluster; add --ray")
    return None


def _make(plans: Mapping[str, Sequence[Any]], out: Path, place: Any, nodes: Any, dry_run: bool, quiet: bool) -> None:
    """Say what of the plans is to be done, do it, and print the tables."""
    from icecore.experiments import study

    with contextlib.ExitStack() as stack:
        executor: Any = None
        for name, cells in plans.items():
            if not cells:
                typer.echo(f"{name}: has no cell of what is asked for")
                continue
            todo = study.unfinished(cells, out, place.device, place.resume)
            budget = cells[0].spot.budget
            what = f"{name}{budget and f', budget {budget}'}: {pluralize(len(cells), 'cell')}"
            if todo:
                finished = f", {len(cells) - len(todo)} of them finished" if len(todo) < len(cells) else ""
                runs = sum(len(cell.sweep) for cell, _ in todo)
                expected = approximate_duration(sum(seconds for _, seconds in todo))
                typer.echo(f"{what}{finished}; {pluralize(runs, 'run')} to make, {expected}")
            else:
                typer.echo(f"{what}, all finished")
            if dry_run:
                if todo:
                    output().print(
                        _plan_table(cells, {cell.spot: approximate_duration(seconds) for cell, seconds in todo})
                    )
                continue
            if todo and executor is None:
                executor = stack.enter_context(_crew(place, nodes, quiet))
            _print(study.run_study(cells, out / f"{name}.jsonl", place, typer.echo, executor))
    if not dry_run:
        typer.echo(f"results are in {out}; `icecore report {out}` makes tables, plots and a page")


@contextlib.contextmanager
def _crew(place: Any, nodes: Any, quiet: bool) -> Iterator[Any]:
    """Who trains: this process, with a display, or a cluster, with a line for each pack."""
    if nodes is None:
        from icecore.experiments.study import LocalExecutor

        with watchers(place.out, quiet, False) as shown:
            yield LocalExecutor(replace(place, watchers=shown))
    else:
        from icecore.experiments import ray_executor as cluster

        say = (lambda line: None) if quiet else functools.partial(typer.echo, err=True)
        with cluster.ray_executor(place, nodes, say) as made:
            yield made


def _plan_table(cells: Sequence[Any], expected: Mapping[Any, str]) -> Any:
    """What is to be done, row by column."""
    columns = list(dict.fromkeys(cell.spot.column for cell in cells))
    table = new_table("to make", *map(plain, columns))
    for row in dict.fromkeys(cell.spot.row for cell in cells):
        spots = {cell.spot.column: cell.spot for cell in cells if cell.spot.row == row}
        table.add_row(plain(row), *(expected.get(spots[c], "finished") if c in spots else "" for c in columns))
    return table


def _print(records: Sequence[Any]) -> None:
    """Tables of the records, ours above the published numbers."""
    from icecore.report.tables import tabulate
    from icecore.report.text import cell_text, count_text, marks_text, published_text

    for found in tabulate(records):
        columns = [name for name in found.columns if any(row.cells[name.name].state != "not run" for row in found.rows)]
        table = new_table(plain(found.measure.caption), "trained", "frozen", *(plain(c.name) for c in columns))
        for row in found.rows:
            cells = [row.cells[column.name] for column in columns]
            ours = [cell_text(cell, found.measure.unit) + marks_text(found.marks(cell)) for cell in cells]
            published = [published_text(cell, found.measure.unit) for cell in cells]
            pairs = zip(ours, published, strict=True)
            lines = [plain(our) + (f"\n[dim]({plain(theirs)})[/]" if theirs else "") for our, theirs in pairs]
            table.add_row(plain(row.label), count_text(row.trained), count_text(row.frozen), *lines)
        output().print(table)
        if any(cell.values[0].published for cell in found.cells):
            typer.echo("in parentheses: published")
        for line in (*(f"mixed: {warning}" for warning in found.warnings), *_numbered(found.notes)):
            typer.echo(line)


def _numbered(notes: Sequence[str]) -> list[str]:
    return [f"{number} {note}" for number, note in enumerate(notes, start=1)]


def report(
    results: Annotated[Path, typer.Argument(help="A folder of results, or of runs, or one results file.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to (default: `report` in the results).")] = None,
) -> None:
    """Tables, plots and one self-contained HTML page from results."""
    from icecore.experiments.results import read
    from icecore.report import write

    records, faults = read(results)
    for fault in faults:
        typer.echo(fault, err=True)
    place = out or (results if results.is_dir() else results.parent) / "report"
    for path in write(records, faults, place, results if results.is_dir() else results.parent):
        typer.echo(path)
