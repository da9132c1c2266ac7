"""Reports: results as Markdown tables, plots, and one self-contained HTML page."""

from icecore.report.writer import write_report

__all__ = ["write_report"]
