"""The page: the answer, the verdicts, all tables and the leaderboard in one HTML file.

It needs no other file, no network and no script. The templates *.html.j2 have the layout, page.css the style.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from icecore.report import cell_text
from icecore.report.answer import Answer
from icecore.report.cells import rate_text
from icecore.report.leaderboard import ENTRY_SEEDS, Board
from icecore.report.plots import Plot
from icecore.report.result_tables import ResultTable
from icecore.report.verdict_lines import VerdictList

#: colours of plots that follow the theme of the reader
THEME_COLOURS: Mapping[str, str] = {
    "#ffffff": "var(--paper)",
    "#333333": "var(--ink)",
    "#222222": "var(--ink)",
    "#e8e8e8": "var(--line)",
    "#d4d4d4": "var(--line)",
}
#: width in pixels and quality of pictures in the page; the files beside it are as the runs left them
PICTURE_WIDTH, PICTURE_QUALITY = 1100, 60


@dataclass(frozen=True)
class PageContent:
    """What the page shows.

    plots     by slug of their table
    answer    the figure at its top; None without results for it
    verdicts  on the claims; None to leave them out
    boards    the leaderboard
    faults    messages about results that could not be read
    """

    tables: Sequence[ResultTable]
    plots: Mapping[str, Sequence[Plot]] = field(default_factory=dict)
    answer: Answer | None = None
    verdicts: VerdictList | None = None
    boards: Sequence[Board] = ()
    faults: Sequence[str] = ()


def render_page(content: PageContent) -> str:
    """The whole page as HTML."""
    styles = PlotStyles()
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"inline": styles.inline, "data_uri": _data_uri, "rate": rate_text}
    # the tables come first, because they fill the styles that the head of the page needs
    shared = {"content": content, "text": cell_text, "entry_seeds": ENTRY_SEEDS}
    body = Markup(environment.get_template("page_body.html.j2").render(shared))
    style = Markup(_read("page.css") + styles.css())
    return environment.get_template("page.html.j2").render(shared, body=body, style=style)


def _read(name: str) -> str:
    return resources.files("icecore.report").joinpath(name).read_text("utf-8")


class PlotStyles:
    """The styles of all plots, each one once, and short ids: in every element they would be half of the page."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    def inline(self, plot: Plot) -> Markup:
        """The SVG as an element of the page, with its caption as a label for screen readers."""
        element = plot.svg[plot.svg.index("<svg") :]
        element = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", element, flags=re.DOTALL)
        element = re.sub(r">\s+<", "><", element)
        element = re.sub(r"<[^>]+>", lambda tag: self._shortened(tag[0]), element)  # never the text of a label
        label = Markup.escape(plot.caption)
        return Markup(element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))

    def _shortened(self, tag: str) -> str:
        """A tag with a class in place of its style, and short ids."""
        tag = re.sub(r'style="([^"]*)"', lambda found: f'class="{_short(self.names, found[1], "p")}"', tag)
        ids = r'( id="|href="#|url\(#)([^")]+)'
        return re.sub(ids, lambda found: found[1] + _short(self.ids, found[2], "i"), tag)

    def css(self) -> str:
        """The rules of all styles so far, with colours of the reader's theme."""
        pattern = "|".join(THEME_COLOURS)
        return "".join(
            f".{name} {{{re.sub(pattern, lambda found: THEME_COLOURS[found[0]], style)}}}\n"
            for style, name in self.names.items()
        )


def _short(names: dict[str, str], text: str, letter: str) -> str:
    """A short name for a text, the same each time."""
    return names.setdefault(text, f"{letter}{len(names)}")


def _data_uri(plot: Plot) -> str:
    """A picture as part of the page, smaller than its file if the file can be read as a picture."""
    from PIL import Image

    kind, data, buffer = "png", plot.png, io.BytesIO()
    try:
        with Image.open(io.BytesIO(plot.png)) as image:
            height = max(1, round(image.height * PICTURE_WIDTH / image.width))
            small = image.convert("RGB")
            if image.width > PICTURE_WIDTH:
                small = small.resize((PICTURE_WIDTH, height))
            small.save(buffer, "WEBP", quality=PICTURE_QUALITY)
            kind, data = "webp", buffer.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # not a picture that can be read: the page has it as it is
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
