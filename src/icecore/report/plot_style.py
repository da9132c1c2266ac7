"""The style of all plots: a row has the same colour, marker and line in every plot.

Colours are Okabe and Ito's, which colour-blind readers can distinguish. Markers carry the same information.
"""

import io
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: colour and marker of rows by name, or by a word of their name ("layers-6-random" has those of "random")
NAMED_STYLES: Mapping[str, tuple[str, str]] = {
    "pretrained": ("#0072B2", "o"),
    "random": ("#D55E00", "s"),
    "statistics": ("#E69F00", "^"),
    "bit-memory": ("#009E73", "D"),
    "vision": ("#CC79A7", "v"),
    "none": ("#7A7A7A", "X"),
    "lstm": ("#222222", "P"),
    "lstm-star": ("#56B4E9", "*"),
    "lstm-matched": ("#8C5A2B", "h"),
}
#: colours and markers of other rows, in order
OTHER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C5A2B", "#7A7A7A")
MARKERS = "osD^vPXh*"
#: line styles of rows that share a colour
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
PUBLISHED_COLOUR, GAP_COLOUR, GRID_COLOUR, TEXT_COLOUR = "#8A8A8A", "#D4D4D4", "#E8E8E8", "#333333"

#: width of a plot in inches; at 96 pixels an inch it is that of the page's text
PAGE_WIDTH = 9.2
MATPLOTLIB_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,  # names of rows and columns are no formulas
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9A9A9A",
    "axes.labelcolor": TEXT_COLOUR,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": "cycler('color', ['#333333'])",
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.7,
    "text.color": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    # text remains text, so that files are small, searchable and readable for screen readers
    "svg.fonttype": "none",
    "svg.hashsalt": "icecore",
}


@dataclass(frozen=True)
class RowStyle:
    """How a row is drawn."""

    colour: str
    marker: str
    dash: Any


def row_styles(rows: Sequence[str]) -> dict[str, RowStyle]:
    """The style of each row, by its key."""
    named = {row: _named_style(row) for row in rows}
    used_colours = {style[0] for style in named.values() if style}
    unused = [pair for pair in zip(OTHER_COLOURS, MARKERS, strict=True) if pair[0] not in used_colours]
    others = itertools.cycle(unused or [("#333333", "o")])
    styles: dict[str, RowStyle] = {}
    rows_by_colour: Counter[str] = Counter()
    for row, style in named.items():
        colour, marker = style or next(others)
        earlier = rows_by_colour[colour]
        rows_by_colour[colour] += 1
        # rows that share a colour have different lines and markers
        marker = MARKERS[(MARKERS.index(marker) + 2 * earlier) % len(MARKERS)] if earlier else marker
        styles[row] = RowStyle(colour, marker, DASHES[earlier % len(DASHES)])
    return styles


def _named_style(row: str) -> tuple[str, str] | None:
    """Colour and marker by the whole name of a row, or by its last word that has a style; None if none has."""
    words = (word for word in reversed(row.split("-")) if word in NAMED_STYLES)
    return NAMED_STYLES.get(row) or next((NAMED_STYLES[word] for word in words), None)


def panels(figure: Figure, count: int, columns: int) -> tuple[list[Axes], list[Axes]]:
    """`count` axes in rows of `columns`, and those of them at the left edge."""
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[count:]:
        ax.set_axis_off()
    return list(grid.flat[:count]), list(grid[:, 0])


def render(figure: Figure, name: str) -> tuple[str, bytes]:
    """The figure as SVG and PNG, with the same bytes each time. Ids in the SVG start with `name` and so are unique."""
    vector, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.savefig(pixels, format="png", dpi=160, metadata={"Software": None})
    svg = vector.getvalue()
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _shortened_tag(tag[0]), svg)
    # fonts are not part of the file, so the reader's sans-serif font is used
    return svg.replace("'DejaVu Sans'", "system-ui"), pixels.getvalue()


def _shortened_tag(tag: str) -> str:
    """A tag of an SVG on one line, with two decimals, which are a fiftieth of a pixel. Texts between tags stay."""
    tag = re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s*\n\s*", " ", tag))
    return re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
