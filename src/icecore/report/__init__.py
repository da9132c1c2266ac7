"""Reports: results as Markdown, as one self-contained page, and as plots.

`tables.tabulate` makes the tables, `write` the files. Nothing here trains or fetches anything.
"""

from collections.abc import Sequence
from pathlib import Path

from icecore.core.errors import UserError
from icecore.core.storage import write_atomic
from icecore.experiments.results import RunRecord
from icecore.report.tables import tabulate
from icecore.report.text import render_markdown

__all__ = ["write"]


def write(records: Sequence[RunRecord], faults: Sequence[str], out: Path, root: Path) -> list[Path]:
    """Write report.md, index.html and plots/ into `out`; returns the paths. The same records give the same bytes.

    faults  what of the results could not be read, in words
    root    the folder of the results, where the records' pictures lie
    Raises UserError without the extra `report`, StorageError.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(f"a report needs {error.name}: pip install 'icecore[report]'") from error
    from icecore.report.page import render_page
    from icecore.report.plots import draw

    tables = tabulate(records)
    plots = {table.slug: draw(table, root) for table in tables}
    files: dict[Path, bytes] = {}
    for plot in (plot for each in plots.values() for plot in each):
        files[out / "plots" / f"{plot.name}.png"] = plot.png
        if plot.svg:
            files[out / "plots" / f"{plot.name}.svg"] = plot.svg.encode()
    named = {
        slug: [(f"plots/{plot.name}.{'svg' if plot.svg else 'png'}", plot.caption) for plot in each]
        for slug, each in plots.items()
    }
    files[out / "report.md"] = render_markdown(tables, faults, named).encode()
    files[out / "index.html"] = render_page(tables, faults, plots).encode()
    for path, content in files.items():
        write_atomic(path, lambda temporary, content=content: temporary.write_bytes(content))
    return list(files)
