"""Sheets of Excel files (.xlsx), the first one of each file. Needs openpyxl."""

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import join_names
from icecore.user_data.column_builder import ColumnBuilder
from icecore.user_data.column_table import TableChunk
from icecore.user_data.readers.csv_layout import HEAD_LINES, MISSING_MARKS, has_header


def read_excel(path: Path, builder: ColumnBuilder) -> Iterator[TableChunk]:
    """Yield the rows of the first sheet, whose first row names the columns if it looks like it. Raises DataError."""
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(f"Reading {path} needs openpyxl: pip install 'icecore[tables]'") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = [row for row in book.worksheets[0].iter_rows(values_only=True) if any(cell is not None for cell in row)]
        others = [sheet.title for sheet in book.worksheets[1:]]
        book.close()
    except Exception as error:  # openpyxl raises exceptions of many types
        raise DataError(f"{path} cannot be read as an Excel file ({error}). Save it as CSV.") from error
    if len(rows) < 2:
        raise DataError(f"{path} has no rows. A table needs a header and at least one row.")
    if others:
        builder.notes.append(("left out", f"sheets {join_names(others)} of {path.name}: only the first one is read"))
    head = [[_text(cell) or "" for cell in row] for row in rows[:HEAD_LINES]]
    width = len(rows[0])
    if has_header(head):
        names = [name if name and name not in MISSING_MARKS else f"column{i}" for i, name in enumerate(head.pop(0), 1)]
        rows = rows[1:]
    else:
        names = [f"column{i}" for i in range(1, width + 1)]
        builder.notes.append(("header", f"{path.name} has none; its columns are called column1 to column{width}"))
    names = [name.strip() for name in names]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has several columns named {join_names(repeated)}. Rename all but one of them.")
    columns = zip(*rows, strict=True)
    cells = {name: [_text(cell) for cell in column] for name, column in zip(names, columns, strict=True)}
    yield TableChunk(names, cells, np.arange(len(rows)))


def _text(cell: Any) -> str | None:
    """A cell as a text file would have it; numbers without a fraction are whole."""
    if cell is None:
        return None
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
