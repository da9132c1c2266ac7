"""The page: all tables and plots in one HTML file that needs no other file, no network and no script.

The template page.html.j2 has the layout and the style.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from icecore.report import cell_text
from icecore.report.cells import rate_text
from icecore.report.plots import Plot
from icecore.report.result_tables import ResultTable


def render_page(tables: Sequence[ResultTable], faults: Sequence[str], plots: Mapping[str, Sequence[Plot]]) -> str:
    """The whole page as HTML. `plots` are by slug of their table, `faults` are messages about unreadable results."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"inline": _inline, "data_uri": _data_uri, "rate": rate_text}
    template = environment.from_string(resources.files("icecore.report").joinpath("page.html.j2").read_text("utf-8"))
    return template.render(tables=tables, faults=faults, plots=plots, text=cell_text)


def _inline(plot: Plot) -> Markup:
    """The SVG as an element of the page, with its caption as a label for screen readers."""
    element = plot.svg[plot.svg.index("<svg") :]
    label = Markup.escape(plot.caption)
    return Markup(element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _data_uri(plot: Plot) -> str:
    return f"data:image/png;base64,{base64.b64encode(plot.png).decode()}"
