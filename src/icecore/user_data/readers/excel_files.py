"""Sheets of Excel files (.xlsx), the first one of each file. Needs openpyxl."""

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.column_builder import ColumnBuilder
from icecore.user_data.column_table import TableChunk
from icecore.user_data.notes import join_names


def read_excel(path: Path, builder: ColumnBuilder) -> Iterator[TableChunk]:
    """Yield the rows of the first sheet, whose first row names the columns. Raises DataError."""
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
    names = [f"column{i}" if name is None else str(name).strip() for i, name in enumerate(rows[0], 1)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has several columns named {join_names(repeated)}. Rename all but one of them.")
    columns = zip(*rows[1:], strict=True)
    cells = {name: [_text(cell) for cell in column] for name, column in zip(names, columns, strict=True)}
    yield TableChunk(names, cells, np.arange(len(rows) - 1))


def _text(cell: Any) -> str | None:
    """A cell as a text file would have it; numbers without a fraction are whole."""
    if cell is None:
        return None
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
