"""One look for all plots: a row has the same colour, marker and line wherever it is drawn.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers say the same a second time.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: rows by name, or by a word of their name ("layers-6-random" has the colour of "random")
COLOURS: Mapping[str, tuple[str, str]] = {
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
#: rows without a name of their own, in order
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C5A2B", "#7A7A7A")
MARKERS = "osD^vPXh*"
#: rows that share a colour
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
PUBLISHED, BAND, GRID, INK = "#8A8A8A", "#D4D4D4", "#E8E8E8", "#333333"

#: at 96 pixels an inch a plot is as wide as the page's text
WIDTH = 9.2
RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9A9A9A",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": "cycler('color', ['#333333'])",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    # text stays text: small files that can be searched and read aloud
    "svg.fonttype": "none",
    "svg.hashsalt": "icecore",
}


@dataclass(frozen=True)
class Look:
    """How a row is drawn."""

    colour: str
    marker: str
    dash: Any


def looks(rows: Sequence[str]) -> dict[str, Look]:
    """The look of each row, by key."""
    named = {row: _named(row) for row in rows}
    taken = {known[0] for known in named.values() if known}
    spare = itertools.cycle(
        [pair for pair in zip(OTHERS, MARKERS, strict=True) if pair[0] not in taken] or [("#333333", "o")]
    )
    found: dict[str, Look] = {}
    seen: dict[str, int] = {}
    for row, known in named.items():
        known = known or next(spare)
        colour, marker = known
        again = seen.get(colour, 0)
        seen[colour] = again + 1
        # of rows that share a colour, each has its own line and marker
        marker = marker if not again else MARKERS[(MARKERS.index(marker) + 2 * again) % len(MARKERS)]
        found[row] = Look(colour, marker, DASHES[again % len(DASHES)])
    return found


def _named(row: str) -> tuple[str, str] | None:
    """Colour and marker of a row that has its own: by its whole name, else by its last word that has one."""
    return COLOURS.get(row) or next((COLOURS[word] for word in reversed(row.split("-")) if word in COLOURS), None)


def panels(figure: Figure, count: int, across: int) -> tuple[list[Axes], list[Axes]]:
    """`count` axes, `across` in a row, and those of them at the left edge."""
    down = -(-count // across)
    grid = figure.subplots(down, across, squeeze=False)
    for ax in grid.flat[count:]:
        ax.set_axis_off()
    return list(grid.flat[:count]), list(grid[:, 0])


def render(figure: Figure, name: str) -> tuple[str, bytes]:
    """The figure as SVG and PNG, the same bytes every time; ids in the SVG begin with `name`, to be unique."""
    vector, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.savefig(pixels, format="png", dpi=160, metadata={"Software": None})
    svg = vector.getvalue()
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # the reader's own sans-serif: fonts are not part of the file
    return svg.replace("'DejaVu Sans'", "system-ui"), pixels.getvalue()
