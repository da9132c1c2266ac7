"""Plots of a table: accuracy against learning rate, learning curves, our and the published numbers, attention.

A plot is drawn only if the table has something to show in it. Needs the extra `report`.
"""

import contextlib
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
from icecore.report.cells import CellNumber, MeanWithError, TableCell, is_behind, rate_text
from icecore.report.plot_style import (
    GAP_COLOUR,
    MATPLOTLIB_SETTINGS,
    PAGE_WIDTH,
    PUBLISHED_COLOUR,
    TEXT_COLOUR,
    RowStyle,
    panels,
    render,
    row_styles,
)
from icecore.report.quantities import convergence_step
from icecore.report.result_tables import ResultTable, TableRow

#: panels in a row of a figure, and the width of one in inches if there are fewer
PANELS_PER_ROW, PANEL_WIDTH = 4, 2.3


@dataclass(frozen=True)
class Plot:
    """A picture: its file name without ending, a caption, PNG bytes, and SVG text unless a run left only a PNG."""

    name: str
    caption: str
    png: bytes
    svg: str = ""


def draw_plots(table: ResultTable, root: Path) -> list[Plot]:
    """All plots that the cells of a table have data for, and the pictures that its runs left below `root`."""
    plots = []
    with rc_context(MATPLOTLIB_SETTINGS):
        for kind, (caption, draw) in PLOT_KINDS.items():
            figure = draw(table)
            if figure is not None:
                name = f"{table.slug}-{kind}"
                svg, png = render(figure, name)
                plots.append(Plot(name, caption, png, svg))
    return [*plots, *_run_pictures(table, root)]


def _run_pictures(table: ResultTable, root: Path) -> list[Plot]:
    """Attention maps that runs left as PNG files below `root`, of each cell the first one that still exists."""
    plots = []
    for row in table.rows:
        for column, cell in row.cells.items():
            picture = next(filter(None, (_picture_of(run, root) for run in cell.chosen)), None)
            if picture is not None:
                caption = f"Attention: {row.label}, {column}."
                plots.append(Plot(f"{table.slug}-map-{len(plots) + 1}", caption, picture))
    return plots


def _picture_of(run: RunRecord, root: Path) -> bytes | None:
    """The PNG file below `root` that a run left, if it can be read."""
    path = root / str(run.extra.get("picture", ""))
    if path.suffix != ".png":
        return None
    with contextlib.suppress(OSError):  # a name that no file can have, or a file that cannot be read
        if path.resolve().is_relative_to(root.resolve()) and path.is_file():
            return path.read_bytes()
    return None


def _figure(count: int, height: float, handles: Sequence[Line2D]) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure of `count` panels, all their axes, and those at the left edge.

    The legend is beside the panels if they leave enough width, else above them.
    """
    columns = min(count, PANELS_PER_ROW)
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    # width in inches: letters, and a line with its gaps
    entry = 0.075 * longest + 0.6
    width_with_legend = columns * PANEL_WIDTH + 0.5 + entry
    is_beside = width_with_legend <= PAGE_WIDTH
    width = width_with_legend if is_beside else PAGE_WIDTH
    entries_per_line = 1 if is_beside else max(1, min(len(handles), int(width / entry)))
    lines = 0 if is_beside else -(-len(handles) // entries_per_line)
    figure = Figure(figsize=(width, -(-count // columns) * height + 0.22 * lines + 0.2), layout="constrained")
    axes, left = panels(figure, count, columns)
    position = "outside right upper" if is_beside else "outside upper left"
    figure.legend(handles=handles, loc=position, ncols=entries_per_line, handlelength=2.6, columnspacing=1.4)
    return figure, axes, left


def _legend_handles(styles: Mapping[str, RowStyle], rows: Sequence[TableRow]) -> list[Line2D]:
    pairs = [(styles[row.key], row.label) for row in rows]
    return [Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.dash, label=label) for s, label in pairs]


def _last_row(axes: Sequence[Axes]) -> Sequence[Axes]:
    """The panels of the last row, whose labels name the x axes of all panels."""
    return axes[(len(axes) - 1) // PANELS_PER_ROW * PANELS_PER_ROW :]


def _select(table: ResultTable, is_shown: Callable[[TableCell], bool]) -> tuple[list[str], list[TableRow]]:
    """Columns and rows with at least one cell that `is_shown`."""
    columns = [c.name for c in table.columns if any(is_shown(row.cells[c.name]) for row in table.rows)]
    return columns, [row for row in table.rows if any(is_shown(row.cells[name]) for name in columns)]


def draw_rates(table: ResultTable) -> Figure | None:
    """Validation accuracy against learning rate, the chosen rate ringed."""
    columns, rows = _select(table, lambda cell: len(cell.rates) > 1)
    if not columns:
        return None
    styles = row_styles([row.key for row in table.rows])
    figure, axes, left = _figure(len(columns), 2.1, _legend_handles(styles, rows))
    for ax, column in zip(axes, columns, strict=True):
        cells = {row.key: row.cells[column] for row in rows}
        for key, cell in cells.items():
            if cell.rates:  # a row may lack a task that others have
                _rate_line(ax, cell, styles[key])
        ax.set_title(column)
        tried = sorted({rate for cell in cells.values() for rate in cell.rates})
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(tried, [rate_text(rate) for rate in tried], rotation=0 if len(tried) < 6 else 45)
        ax.margins(x=0.1, y=0.12)
        _trivial_line(ax.axhline, table, column)
        _percent(ax)
    for ax in left:
        ax.set_ylabel("validation accuracy, %")
    for ax in _last_row(axes):
        ax.set_xlabel("learning rate")
    return figure


def _trivial_line(draw: Callable[..., Line2D], table: ResultTable, column: str) -> None:
    """Draw a dotted line where an answer without training is, if one is known, with a panel's axhline or axvline."""
    if column in table.trivial:
        draw(table.trivial[column], color=TEXT_COLOUR, linestyle=(0, (1, 1.5)), lw=1.2, zorder=0)


def _rate_line(ax: Axes, cell: TableCell, style: RowStyle) -> None:
    """Draw a line through the seeds that tried every rate, and a ring for the mean of all seeds at the chosen rate.

    Other seeds trained only at the chosen rate. In the line they would make it look worse or better than its
    neighbours. A rate at which all runs diverged is a cross at the bottom. A rate that fell behind in a race is a
    hollow marker beside the line, which shows what runs have reached at their end.
    """
    runs_by_rate = {rate: {r.summary.seed: r for r in cell.runs if r.summary.lr == rate} for rate in cell.rates}
    seeds = [set(runs) for runs in runs_by_rate.values()]
    shared_seeds = set.intersection(*seeds) or set.union(*seeds)
    points: dict[float, MeanWithError] = {}
    for rate, runs in runs_by_rate.items():
        point = _validation([run for seed, run in runs.items() if seed in shared_seeds])
        if any(map(is_behind, runs.values())):
            hollow = {"markerfacecolor": "white", "markersize": 5}
            heights = [] if point is None else [point.mean]
            ax.plot([rate] * len(heights), heights, style.marker, color=style.colour, zorder=3, **hollow)
        elif point is None:
            ax.plot(rate, 0.03, "x", color=style.colour, transform=ax.get_xaxis_transform(), markersize=6, zorder=3)
        else:
            points[rate] = point
    means = [point.mean for point in points.values()]
    errors = [point.sem or 0.0 for point in points.values()]
    line = {"color": style.colour, "marker": style.marker, "linestyle": style.dash}
    ax.errorbar(list(points), means, errors, elinewidth=1, capsize=2, **line)
    chosen = _validation(cell.chosen)
    if chosen and cell.lr is not None:
        ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": style.colour, "markeredgewidth": 1}
        ax.errorbar(cell.lr, chosen.mean, chosen.sem, color=style.colour, marker="o", elinewidth=1, capsize=2, **ring)


def _validation(runs: Sequence[RunRecord]) -> MeanWithError | None:
    """Validation accuracy in % over the runs that have one."""
    metrics = (run.summary.val_metric for run in runs)
    return MeanWithError.of([100 * metric for metric in metrics if metric is not None])


def draw_curves(table: ResultTable) -> Figure | None:
    """Validation accuracy against step at the chosen learning rate, mean and range over seeds."""
    columns, rows = _select(table, lambda cell: any(len(run.validation) > 1 for run in cell.chosen))
    if not columns:
        return None
    styles = row_styles([row.key for row in table.rows])
    figure, axes, left = _figure(len(columns), 2.1, _legend_handles(styles, rows))
    for ax, column in zip(axes, columns, strict=True):
        for row in rows:
            _curve(ax, [run for run in row.cells[column].chosen if run.validation], styles[row.key])
        ax.set_title(column)
        ax.set_xlim(left=0)
        ax.margins(y=0.08)
        _trivial_line(ax.axhline, table, column)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        _percent(ax)
    for ax in left:
        ax.set_ylabel("validation accuracy, %")
    for ax in _last_row(axes):
        ax.set_xlabel("step")
    return figure


def _curve(ax: Axes, runs: Sequence[RunRecord], style: RowStyle) -> None:
    """Draw the mean curve of runs, the range over runs, and a marker at the step where the mean has converged."""
    if not runs:
        return
    steps = sorted({step for run in runs for step, _ in run.validation})
    steps = [step for step in steps if step >= max(run.validation[0][0] for run in runs)]
    # a run that stopped early keeps its last metric
    values = [[100 * [metric for s, metric in run.validation if s <= step][-1] for run in runs] for step in steps]
    means = [sum(metrics) / len(metrics) for metrics in values]
    ax.plot(steps, means, color=style.colour, linestyle=style.dash)
    if len(runs) > 1:
        ax.fill_between(steps, list(map(min, values)), list(map(max, values)), color=style.colour, alpha=0.15, lw=0)
    # the marker is hollow if the mean was still at its best at the end
    reading = convergence_step([(step, mean / 100) for step, mean in zip(steps, means, strict=True)])
    assert reading is not None
    step, bound = reading
    face = "white" if bound else style.colour
    mean = means[steps.index(int(step))]
    ax.plot(step, mean, style.marker, color=style.colour, markerfacecolor=face, markersize=6, zorder=3)


def draw_comparison(table: ResultTable) -> Figure | None:
    """Our numbers with standard errors and the published ones, one panel for each column and part of a cell."""
    pairs_by_panel = {
        (column.name, part): [(row, row.cells[column.name].numbers[part]) for row in table.rows]
        for column in table.columns
        for part in range(len(table.quantity.parts))
    }
    pairs_by_panel = {key: p for key, p in pairs_by_panel.items() if any(n.ours and n.published for _, n in p)}
    if not pairs_by_panel:
        return None
    numbers = [(row.key, number) for pairs in pairs_by_panel.values() for row, number in pairs]
    rows_with_numbers = {key for key, number in numbers if number.ours or number.published}
    rows = [row for row in table.rows if row.key in rows_with_numbers]
    height = 0.75 + sum(0.2 + 0.13 * len(_wrapped(row.label)) for row in rows)
    handles = [
        Line2D([], [], color=TEXT_COLOUR, marker="o", linestyle="-", lw=1, label="icecore, ± standard error"),
        Line2D(
            [], [], color=PUBLISHED_COLOUR, marker="D", markerfacecolor="white", markersize=7, ls="", label="published"
        ),
    ]
    figure, axes, left = _figure(len(pairs_by_panel), height, handles)
    styles = row_styles([row.key for row in table.rows])
    for ax, ((column, part), pairs) in zip(axes, pairs_by_panel.items(), strict=True):
        for y, row in enumerate(rows):
            _draw_pair(ax, y, next(number for r, number in pairs if r is row), styles[row.key])
        _trivial_line(ax.axvline, table, column)
        name = list(table.quantity.parts)[part]
        ax.set_title(column if len(table.quantity.parts) == 1 else f"{column}: {name}")
        ax.set_yticks(range(len(rows)), [""] * len(rows))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        _scale_x(ax, table.quantity.unit)
    for ax in left:
        ax.set_yticks(range(len(rows)), ["\n".join(_wrapped(row.label)) for row in rows])
    for ax in _last_row(axes):
        ax.set_xlabel(table.quantity.unit if table.quantity.unit != "%" else "accuracy, %")
    return figure


def _draw_pair(ax: Axes, y: int, number: CellNumber, style: RowStyle) -> None:
    """Draw our and the published number at height `y`, with a bar between them."""
    if number.ours and number.published:
        ends = [number.ours.mean, number.published.mean]
        ax.plot(ends, [y, y], color=GAP_COLOUR, lw=3, solid_capstyle="butt", zorder=1)
    if number.published:
        marker = {"color": PUBLISHED_COLOUR, "marker": "D", "markerfacecolor": "white", "markersize": 7}
        ax.errorbar(number.published.mean, y, xerr=number.published.sem, zorder=2, **marker)
    if number.ours:
        mean, error = number.ours.mean, number.ours.sem
        ax.errorbar(mean, y, xerr=error, color=style.colour, marker=style.marker, capsize=2, zorder=3)
        if number.bound:
            ax.annotate("→", (mean, y), (5, 0), textcoords="offset points", color=style.colour, va="center")


def _wrapped(label: str) -> list[str]:
    return textwrap.wrap(label, 24)


def draw_attention_shares(table: ResultTable) -> Figure | None:
    """Share of attention on the needed bits against the length of the strings, with uniform attention."""
    points_by_row: dict[str, list[tuple[int, float, float]]] = {}
    for row in table.rows:
        for run in (run for cell in row.cells.values() for run in cell.chosen):
            shares = run.extra.get("attention", {})
            if {"n", "best", "uniform"} <= shares.keys():
                point = shares["n"], 100 * shares["best"], 100 * shares["uniform"]
                points_by_row.setdefault(row.key, []).append(point)
    if not points_by_row:
        return None
    styles = row_styles([row.key for row in table.rows])
    uniform_handle = Line2D([], [], color=PUBLISHED_COLOUR, linestyle=(0, (1, 1.5)), lw=1.2, label="uniform attention")
    handles = [*_legend_handles(styles, [row for row in table.rows if row.key in points_by_row]), uniform_handle]
    figure, (ax,), _ = _figure(1, 2.6, handles)
    for key, points in points_by_row.items():
        style = styles[key]
        sizes, best, _ = zip(*sorted(points), strict=True)
        ax.plot(sizes, best, color=style.colour, marker=style.marker, linestyle=style.dash)
    sizes, uniform = zip(
        *sorted({(n, share) for points in points_by_row.values() for n, _, share in points}), strict=True
    )
    ax.plot(sizes, uniform, color=PUBLISHED_COLOUR, linestyle=(0, (1, 1.5)), lw=1.2)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(sorted(set(sizes)), [str(n) for n in sorted(set(sizes))])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("n, bits a string")
    ax.set_ylabel("attention on needed bits,\nbest head, %")
    _percent(ax)
    return figure


def _scale_x(ax: Axes, unit: str) -> None:
    """Scale the x axis of numbers in `unit`: logarithmic for steps, which span orders of magnitude."""
    if unit == "steps":
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:g}" if n < 1000 else f"{n / 1000:g}k"))
    else:
        ax.margins(x=0.12)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _percent(ax: Axes) -> None:
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


DOTTED = "A dotted line is an answer that needs no training, such as guessing."

PLOT_KINDS: dict[str, tuple[str, Callable[[ResultTable], Figure | None]]] = {
    "beside": (
        "Our numbers (filled, ± standard error) and the published numbers (hollow). An arrow marks a lower bound. "
        f"{DOTTED}",
        draw_comparison,
    ),
    "rates": (
        "Validation accuracy against learning rate, over the seeds that tried every rate (in a staged sweep the first "
        "seed). The ring is the mean of all seeds at the chosen rate, ± standard error. A cross (×) is a rate at which "
        "all runs diverged. A hollow marker is a rate that stopped in a race, with its best accuracy until then. "
        f"{DOTTED}",
        draw_rates,
    ),
    "curves": (
        "Learning curves at the chosen learning rate: mean and range over seeds. A run that stopped early keeps its "
        "last accuracy. The marker is the step at which the mean has converged; it is hollow if the mean was still "
        f"rising at the end. {DOTTED}",
        draw_curves,
    ),
    "attention": (
        "The best head's share of attention that the outputs give to the two bits they need.",
        draw_attention_shares,
    ),
}
