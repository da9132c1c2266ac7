"""The report: writes the tables and plots of results as report.md, index.html and picture files.

Nothing here trains or downloads anything.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from icecore.core.extras import require_packages
from icecore.core.storage import write_atomic
from icecore.core.text import printable
from icecore.experiments.results import RunRecord
from icecore.report.answer import find_answer
from icecore.report.leaderboard import PROJECT, build_leaderboard
from icecore.report.markdown import render_markdown
from icecore.report.result_tables import build_tables
from icecore.report.verdict_lines import list_verdicts
from icecore.report.verdicts import evaluate_claims


def write_report(
    records: Sequence[RunRecord],
    faults: Sequence[str],
    out: Path,
    root: Path,
    submitted: Mapping[str, Sequence[RunRecord]] | None = None,
) -> list[Path]:
    """Write report.md, index.html and plots/ into `out`. Returns their paths. Equal records give equal bytes.

    faults     messages about results that could not be read
    root       the folder of the results; paths of pictures in records are relative to it
    submitted  records of others, by who made them: only the leaderboard has them
    Raises UserError without the extra `report`, and StorageError.
    """
    require_packages("A report", "report", "jinja2", "matplotlib")
    from icecore.report.page import PageContent, render_page
    from icecore.report.plots import draw_plots

    tables, faults = build_tables(records), [printable(fault) for fault in faults]
    plots = {table.slug: draw_plots(table, root) for table in tables}
    files: dict[Path, bytes] = {}
    for plot in (plot for plots_of_table in plots.values() for plot in plots_of_table):
        files[out / "plots" / f"{plot.name}.png"] = plot.png
        if plot.svg:
            files[out / "plots" / f"{plot.name}.svg"] = plot.svg.encode()
    links = {
        slug: [(f"plots/{plot.name}.{'svg' if plot.svg else 'png'}", plot.caption) for plot in plots_of_table]
        for slug, plots_of_table in plots.items()
    }
    boards = build_leaderboard({PROJECT: records, **(submitted or {})})
    files[out / "report.md"] = render_markdown(tables, faults, links, boards).encode()
    verdicts = list_verdicts(evaluate_claims(records))
    content = PageContent(tables, plots, find_answer(tables), verdicts, boards, faults)
    files[out / "index.html"] = render_page(content).encode()
    for path, data in files.items():
        write_atomic(path, lambda temporary, data=data: temporary.write_bytes(data))
    return list(files)
