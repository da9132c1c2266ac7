"""Plots of a table: accuracy against learning rate, learning curves, ours beside the published, attention.

Each is drawn only where there is something to see. Needs the extra `report`.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from icecore.experiments.results import RunRecord
from icecore.report.cells import Estimate, TableCell, Value, converged, rate_text
from icecore.report.style import BAND, INK, PUBLISHED, RC, WIDTH, Look, looks, panels, render
from icecore.report.tables import ResultTable, TableRow

#: panels in a row, and inches of each where they do not fill one
ACROSS, PANEL = 4, 2.3


@dataclass(frozen=True)
class Plot:
    """A picture: its file name without ending, what it shows, PNG bytes, and SVG text where it was drawn here."""

    name: str
    caption: str
    png: bytes
    svg: str = ""


def draw(table: ResultTable, root: Path) -> list[Plot]:
    """The plots of a table, as far as its cells have something to plot, and its runs' pictures from below `root`."""
    found = []
    with rc_context(RC):
        for kind, (caption, make) in KINDS.items():
            figure = make(table)
            if figure is not None:
                name = f"{table.slug}-{kind}"
                svg, png = render(figure, name)
                found.append(Plot(name, caption, png, svg))
    return [*found, *_pictures(table, root)]


def _pictures(table: ResultTable, root: Path) -> list[Plot]:
    """Attention maps that runs left as PNG files; one that is gone is left out."""
    found = []
    for row in table.rows:
        for column, cell in row.cells.items():
            for run in cell.chosen:
                path = root / str(run.extra.get("picture", ""))
                if path.suffix == ".png" and path.resolve().is_relative_to(root.resolve()) and path.is_file():
                    name = f"{table.slug}-map-{len(found) + 1}"
                    found.append(Plot(name, f"Attention: {row.label}, {column}.", path.read_bytes()))
    return found


def _figure(columns: int, height: float, handles: Sequence[Line2D]) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure of a panel a column with a legend: above a full row, else beside it. With the axes at its left edge."""
    across = min(columns, ACROSS)
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    # inches: a letter, and a line with its gaps
    entry = 0.075 * longest + 0.6
    beside = across * PANEL + 0.5 + entry <= WIDTH
    width = across * PANEL + 0.5 + entry if beside else WIDTH
    fit = 1 if beside else max(1, min(len(handles), int(width / entry)))
    lines = 0 if beside else -(-len(handles) // fit)
    figure = Figure(figsize=(width, -(-columns // across) * height + 0.22 * lines + 0.2), layout="constrained")
    axes, left = panels(figure, columns, across)
    place = "outside right upper" if beside else "outside upper left"
    figure.legend(handles=handles, loc=place, ncols=fit, handlelength=2.6, columnspacing=1.4)
    return figure, axes, left


def _handles(shown: Mapping[str, Look], rows: Sequence[TableRow]) -> list[Line2D]:
    looked = [(shown[row.key], row.label) for row in rows]
    return [Line2D([], [], color=x.colour, marker=x.marker, linestyle=x.dash, label=label) for x, label in looked]


def _lowest(axes: Sequence[Axes]) -> Sequence[Axes]:
    """The panels of the last row, which say what all x axes are."""
    return axes[(len(axes) - 1) // ACROSS * ACROSS :]


def _columns(table: ResultTable, wanted: Callable[[TableCell], bool]) -> tuple[list[str], list[TableRow]]:
    """Columns and rows with at least one cell that is `wanted`."""
    columns = [c.name for c in table.columns if any(wanted(row.cells[c.name]) for row in table.rows)]
    return columns, [row for row in table.rows if any(wanted(row.cells[name]) for name in columns)]


def rates(table: ResultTable) -> Figure | None:
    """Validation accuracy against learning rate, the chosen rate ringed."""
    columns, rows = _columns(table, lambda cell: len(cell.rates) > 1)
    if not columns:
        return None
    shown = looks([row.key for row in table.rows])
    figure, axes, left = _figure(len(columns), 2.1, _handles(shown, rows))
    for ax, column in zip(axes, columns, strict=True):
        cells = {row.key: row.cells[column] for row in rows}
        for key, cell in cells.items():
            _rate_line(ax, cell, shown[key])
        ax.set_title(column)
        tried = sorted({rate for cell in cells.values() for rate in cell.rates})
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(tried, [rate_text(rate) for rate in tried], rotation=0 if len(tried) < 6 else 45)
        ax.margins(x=0.1, y=0.12)
        _percent(ax)
    for ax in left:
        ax.set_ylabel("validation accuracy, %")
    for ax in _lowest(axes):
        ax.set_xlabel("learning rate")
    return figure


def _rate_line(ax: Axes, cell: TableCell, look: Look) -> None:
    """A line through the seeds that tried every rate, the chosen rate's mean over all its seeds ringed.

    Further seeds train at the chosen rate alone: in the line they would make it look worse, or better, than the
    rates beside it. A cross at the foot where all diverged.
    """
    tried = {rate: {r.summary["seed"]: r for r in cell.runs if r.summary["lr"] == rate} for rate in cell.rates}
    shared = set.intersection(*map(set, tried.values())) or set.union(*map(set, tried.values()))
    found: dict[float, Estimate] = {}
    for rate, runs in tried.items():
        estimate = _validation([run for seed, run in runs.items() if seed in shared])
        if estimate is None:
            ax.plot(rate, 0.03, "x", color=look.colour, transform=ax.get_xaxis_transform(), markersize=6, zorder=3)
        else:
            found[rate] = estimate
    means = [estimate.mean for estimate in found.values()]
    errors = [estimate.sem or 0.0 for estimate in found.values()]
    ax.errorbar(
        list(found),
        means,
        errors,
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash,
        elinewidth=1,
        capsize=2,
    )
    chosen = _validation(cell.chosen)
    if chosen and cell.lr is not None:
        ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": look.colour, "markeredgewidth": 1}
        ax.errorbar(cell.lr, chosen.mean, chosen.sem, color=look.colour, marker="o", elinewidth=1, capsize=2, **ring)


def _validation(runs: Sequence[RunRecord]) -> Estimate | None:
    """Validation accuracy of runs in %, of those that have one."""
    return Estimate.over([100 * r.summary["val_metric"] for r in runs if r.summary["val_metric"] is not None])


def curves(table: ResultTable) -> Figure | None:
    """Validation accuracy against step at the chosen learning rate, mean and range over seeds."""
    columns, rows = _columns(table, lambda cell: any(len(run.validation) > 1 for run in cell.chosen))
    if not columns:
        return None
    shown = looks([row.key for row in table.rows])
    figure, axes, left = _figure(len(columns), 2.1, _handles(shown, rows))
    for ax, column in zip(axes, columns, strict=True):
        for row in rows:
            _curve(ax, [run for run in row.cells[column].chosen if run.validation], shown[row.key])
        ax.set_title(column)
        ax.set_xlim(left=0)
        ax.margins(y=0.08)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        _percent(ax)
    for ax in left:
        ax.set_ylabel("validation accuracy, %")
    for ax in _lowest(axes):
        ax.set_xlabel("step")
    return figure


def _curve(ax: Axes, runs: Sequence[RunRecord], look: Look) -> None:
    if not runs:
        return
    steps = sorted({step for run in runs for step, _ in run.validation})
    steps = [step for step in steps if step >= max(run.validation[0][0] for run in runs)]
    # a run that stopped early keeps what it had reached
    values = [[100 * [metric for at, metric in run.validation if at <= step][-1] for run in runs] for step in steps]
    means = [sum(at) / len(at) for at in values]
    ax.plot(steps, means, color=look.colour, linestyle=look.dash)
    if len(runs) > 1:
        ax.fill_between(steps, list(map(min, values)), list(map(max, values)), color=look.colour, alpha=0.15, lw=0)
    # the mean curve's own step of convergence, hollow where it was still at its best at the end
    reading = converged([(step, mean / 100) for step, mean in zip(steps, means, strict=True)])
    assert reading is not None
    step, bound = reading
    face = "white" if bound else look.colour
    place = means[steps.index(int(step))]
    ax.plot(step, place, look.marker, color=look.colour, markerfacecolor=face, markersize=6, zorder=3)


def beside(table: ResultTable) -> Figure | None:
    """Ours with standard errors beside the published numbers, a panel a column."""
    both = {
        (column.name, i): [(row, row.cells[column.name].values[i]) for row in table.rows]
        for column in table.columns
        for i in range(len(table.measure.parts))
    }
    shared = {place: pairs for place, pairs in both.items() if any(v.ours and v.published for _, v in pairs)}
    if not shared:
        return None
    rows = [row for row in table.rows if any(v.ours or v.published for p in shared.values() for r, v in p if r is row)]
    height = 0.75 + sum(0.2 + 0.13 * len(_wrapped(row.label)) for row in rows)
    marks = [
        Line2D([], [], color=INK, marker="o", linestyle="-", lw=1, label="icecore, ± standard error"),
        Line2D([], [], color=PUBLISHED, marker="D", markerfacecolor="white", markersize=7, ls="", label="published"),
    ]
    figure, axes, left = _figure(len(shared), height, marks)
    shown = looks([row.key for row in table.rows])
    for ax, ((column, part), pairs) in zip(axes, shared.items(), strict=True):
        for place, row in enumerate(rows):
            _dots(ax, place, next(value for r, value in pairs if r is row), shown[row.key])
        name = list(table.measure.parts)[part]
        ax.set_title(column if len(table.measure.parts) == 1 else f"{column}: {name}")
        ax.set_yticks(range(len(rows)), [""] * len(rows))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        _scale(ax, table.measure.unit)
    for ax in left:
        ax.set_yticks(range(len(rows)), ["\n".join(_wrapped(row.label)) for row in rows])
    for ax in _lowest(axes):
        ax.set_xlabel(table.measure.unit if table.measure.unit != "%" else "accuracy, %")
    return figure


def _dots(ax: Axes, place: int, value: Value, look: Look) -> None:
    if value.ours and value.published:
        ends = [value.ours.mean, value.published.mean]
        ax.plot(ends, [place, place], color=BAND, lw=3, solid_capstyle="butt", zorder=1)
    if value.published:
        look_of = {"color": PUBLISHED, "marker": "D", "markerfacecolor": "white", "markersize": 7}
        ax.errorbar(value.published.mean, place, xerr=value.published.sem, zorder=2, **look_of)
    if value.ours:
        mean, error = value.ours.mean, value.ours.sem
        ax.errorbar(mean, place, xerr=error, color=look.colour, marker=look.marker, capsize=2, zorder=3)
        if value.bound:
            ax.annotate("→", (mean, place), (5, 0), textcoords="offset points", color=look.colour, va="center")


def _wrapped(label: str) -> list[str]:
    return textwrap.wrap(label, 24)


def attention(table: ResultTable) -> Figure | None:
    """Share of attention on the needed bits against the strings' length, with uniform attention."""
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for row in table.rows:
        for run in (run for cell in row.cells.values() for run in cell.chosen):
            found = run.extra.get("attention", {})
            if {"n", "best", "uniform"} <= found.keys():
                lines.setdefault(row.key, []).append((found["n"], 100 * found["best"], 100 * found["uniform"]))
    if not lines:
        return None
    shown = looks([row.key for row in table.rows])
    even = Line2D([], [], color=PUBLISHED, linestyle=(0, (1, 1.5)), lw=1.2, label="uniform attention")
    handles = [*_handles(shown, [row for row in table.rows if row.key in lines]), even]
    figure, (ax,), _ = _figure(1, 2.6, handles)
    for key, points in lines.items():
        look = shown[key]
        sizes, best, _ = zip(*sorted(points), strict=True)
        ax.plot(sizes, best, color=look.colour, marker=look.marker, linestyle=look.dash)
    sizes, uniform = zip(*sorted({(n, share) for points in lines.values() for n, _, share in points}), strict=True)
    ax.plot(sizes, uniform, color=PUBLISHED, linestyle=(0, (1, 1.5)), lw=1.2)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(sorted(set(sizes)), [str(n) for n in sorted(set(sizes))])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("n, bits a string")
    ax.set_ylabel("attention on needed bits,\nbest head, %")
    _percent(ax)
    return figure


def _scale(ax: Axes, unit: str) -> None:
    """The x axis of numbers in `unit`; steps span orders of magnitude."""
    if unit == "steps":
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:g}" if n < 1000 else f"{n / 1000:g}k"))
    else:
        ax.margins(x=0.12)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _percent(ax: Axes) -> None:
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


KINDS: dict[str, tuple[str, Callable[[ResultTable], Figure | None]]] = {
    "beside": ("Ours (filled, ± standard error; → at least that) beside the published numbers (hollow).", beside),
    "rates": (
        "Validation accuracy against learning rate, of the seeds that tried every rate (in a staged sweep the first). "
        "Ringed: the chosen rate, mean over all its seeds ± standard error. × is a rate at which all runs diverged.",
        rates,
    ),
    "curves": (
        "Learning curves at the chosen learning rate: mean and range over seeds; a run that stopped early stays where "
        "it was. The marker is the step to converge of the mean, hollow where it was still rising at the end.",
        curves,
    ),
    "attention": (
        "Share of attention that outputs give to the two bits they need, best head.",
        attention,
    ),
}
