"""The picture of inspections: the size of every token in each layer, and below it what the layers do with tokens."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icecore.core.pictures import picture_format, require_drawing
from icecore.core.storage import write_atomic
from icecore.inspection.layer_statistics import Stage
from icecore.inspection.measurement import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from icecore.report.plot_style import RowStyle

#: most stages that have a label of their own on an axis
MAX_LABELS = 14
#: size of markers in deep bodies
DEEP_MARKER_SIZE = 2.5
#: height in inches of the heat maps and of a row of panels
MAP_HEIGHT, PANEL_HEIGHT = 2.5, 1.9
#: sideways shift of the norms of one layer, so that they do not cover each other
NORM_SHIFT = 0.16
NEUTRAL_COLOUR = "#7A7A7A"


def draw_inspections(inspections: Sequence[Inspection], path: Path) -> None:
    """Draw inspections of one body with several weights, or of one body, side by side. PNG, SVG or PDF, by `path`.

    Raises UserError without the extra `plot`, and ConfigError for another ending of the file's name.
    """
    require_drawing()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from icecore.report.plot_style import MATPLOTLIB_SETTINGS, PAGE_WIDTH, row_styles

    file_format = picture_format(path)
    names = [each.body.weights for each in inspections]
    styles = row_styles(names)
    stages = list(max((each.stages for each in inspections), key=len))
    settings = dict(MATPLOTLIB_SETTINGS)
    if len(stages) > MAX_LABELS:
        settings["lines.markersize"] = DEEP_MARKER_SIZE
    with rc_context(settings):
        figure = Figure(figsize=(PAGE_WIDTH, MAP_HEIGHT + 2 * PANEL_HEIGHT + 0.5), layout="constrained")
        halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[MAP_HEIGHT, 2 * PANEL_HEIGHT])
        above, below = halves[:, 0]
        _draw_sizes(above, inspections)
        axes = below.subplots(2, 2, sharex=True)
        for ax, draw in zip(axes.flat, (_draw_shares, _draw_cosines, _draw_attention, _draw_gains), strict=True):
            for inspection, name in zip(inspections, names, strict=True):
                draw(ax, inspection, {stage.name: x for x, stage in enumerate(stages)}, styles[name])
            _label_stages(ax.set_xticks, stages)
        for ax in axes[1]:
            ax.set_xlabel("layer")
        figure.suptitle(_title(inspections), fontsize=10, fontweight="bold", x=0.01, ha="left")
        if len(inspections) > 1:
            _add_legend(below, styles)
        write_atomic(path, lambda temporary: figure.savefig(temporary, format=file_format, dpi=120))


def _title(inspections: Sequence[Inspection]) -> str:
    first = inspections[0]
    return f"{first.body.name} on {first.task}: {first.examples} examples, {first.start}"


def _add_legend(figure: "Figure", styles: Mapping[str, "RowStyle"]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=s.colour, marker=s.marker, label=f"{name} weights") for name, s in styles.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _label_stages(set_ticks: Callable[..., object], stages: Sequence[Stage]) -> None:
    """Label layers by number, only every few of them in deep bodies, and the stages around them by name."""
    step = -(-len(stages) // MAX_LABELS)
    named = [x for x, stage in enumerate(stages) if not stage.name.startswith("layer")]
    numbers = {x: int(stages[x].name.split()[-1]) for x in range(len(stages)) if x not in named}
    # labels keep a distance from each other
    layers = [x for x, number in numbers.items() if number % step == 0 and all(abs(x - each) >= step for each in named)]
    shown = sorted([*named, *layers])
    set_ticks(shown, [stages[x].name.split()[-1] for x in shown])


def _draw_sizes(figure: "Figure", inspections: Sequence[Inspection]) -> None:
    """A heat map of each body, all on one scale: root mean square of the tokens at each position and stage."""
    from matplotlib.colors import LogNorm

    maps = [torch.stack([stage.hidden.rms_by_position for stage in each.stages]) for each in inspections]
    values = torch.cat([each.flatten() for each in maps])
    values = values[values.isfinite() & (values > 0)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)
    scale = LogNorm(low, max(high, 1.01 * low))
    axes = figure.subplots(1, len(maps), sharey=len({len(each) for each in maps}) == 1, squeeze=False)[0]
    image = None
    for ax, rms, inspection in zip(axes, maps, inspections, strict=True):
        # the first and the last position lie at the edges of the picture
        image = ax.imshow(rms.numpy(), aspect="auto", interpolation="none", norm=scale, cmap="viridis")
        ax.grid(visible=False)
        ax.set_facecolor("#D4D4D4")
        ax.set_xlabel("position")
        kind = f", {inspection.body.weights}" if len(maps) > 1 else ""
        ax.set_title(f"root mean square of the hidden states{kind}" if len(maps) == 1 else f"root mean square{kind}")
        _label_stages(ax.set_yticks, inspection.stages)
    axes[0].set_ylabel("layer")
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), pad=0.01)
    _label_decades(bar.ax, low, high)


def _label_decades(ax: "Axes", low: float, high: float) -> None:
    """Label a logarithmic y axis with plain numbers: 1, 2 and 5 in each decade if there are few decades, else 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    few = high < 100 * low
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_shares(ax: "Axes", inspection: Inspection, places: Mapping[str, int], style: "RowStyle") -> None:
    x = [places[stage.name] for stage in inspection.stages]
    hidden = [stage.hidden for stage in inspection.stages]
    ax.plot(x, [100 * each.top_share for each in hidden], color=style.colour, marker=style.marker)
    ax.plot(x, [100 * each.top10_share for each in hidden], color=style.colour, linestyle="--")
    _finish(ax, "squared norm in the largest dimension (dashed: in ten)", "%", (0, 100))


def _draw_cosines(ax: "Axes", inspection: Inspection, places: Mapping[str, int], style: "RowStyle") -> None:
    x = [places[stage.name] for stage in inspection.stages]
    cosines = [stage.hidden.cosine for stage in inspection.stages]
    ax.plot(x, cosines, color=style.colour, marker=style.marker)
    _finish(ax, "how alike tokens look", "mean cosine", (min(0.0, float(ax.dataLim.y0)), 1))


def _draw_attention(ax: "Axes", inspection: Inspection, places: Mapping[str, int], style: "RowStyle") -> None:
    pairs = [(places[stage.name], stage.attention) for stage in inspection.stages if stage.attention]
    if pairs:
        x = [place for place, _ in pairs]
        first, uniform = ([100 * getattr(each, name) for _, each in pairs] for name in ("first", "uniform_first"))
        ax.plot(x, first, color=style.colour, marker=style.marker)
        ax.plot(x, uniform, color=NEUTRAL_COLOUR, linestyle=":")
    else:
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center")
    _finish(ax, "attention on the first position (dotted: uniform)", "%", (0, 100))


def _draw_gains(ax: "Axes", inspection: Inspection, places: Mapping[str, int], style: "RowStyle") -> None:
    for stage in inspection.stages:
        for number, norm in enumerate(stage.norms):
            x = places[stage.name] + NORM_SHIFT * (number - (len(stage.norms) - 1) / 2)
            ax.plot(x, norm.gain, color=style.colour, marker=style.marker, linestyle="")
    gains = [norm.gain for stage in inspection.stages for norm in stage.norms]
    gains = [gain for gain in gains if 0 < gain < math.inf]
    if gains:
        ax.set_yscale("log")
        low, high = min(min(gains) / 2, *ax.get_ylim()), max(2 * max(gains), *ax.get_ylim())
        ax.set_ylim(low, high)
        _label_decades(ax, low, high)
    _finish(ax, "gains of each norm", "root mean square", None)


def _finish(ax: "Axes", title: str, label: str, limits: tuple[float, float] | None) -> None:
    ax.set_title(title)
    ax.set_ylabel(label)
    if limits is not None:
        ax.set_ylim(*limits)
    for line in ax.lines:
        line.set_clip_on(False)  # whole markers at 0 and 100 %
