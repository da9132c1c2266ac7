"""CSV and TSV files, read in chunks: delimiter, header and encoding are inferred, and damaged rows are skipped.

The standard library reads them, because pyarrow does not report on which lines a damaged row lies, and refuses a
whole file if a cell, or a quotation mark that is never closed, spans more than one of its blocks.
"""

import csv
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.core.limits import MAX_LINE, limited_lines
from icecore.core.text import join_names, pluralize
from icecore.user_data.cell_types import can_parse
from icecore.user_data.column_builder import ColumnBuilder
from icecore.user_data.column_table import TableChunk
from icecore.user_data.readers.csv_layout import HEAD_LINES, MISSING_MARKS, ROW_NAMES, Layout, find_layout
from icecore.user_data.readers.text_files import open_text

#: rows of a chunk; column types are inferred from the first one
ROWS_PER_CHUNK = 65_536
#: rows that are turned into columns at once: so few stay in the processor's cache
ROWS_PER_BATCH = 128


def read_csv(path: Path, builder: ColumnBuilder) -> Iterator[TableChunk]:
    """Yield the chunks of a CSV or TSV file. Notes and damaged rows go to the builder. Raises DataError."""
    csv.field_size_limit(MAX_LINE)  # a cell may hold a chromosome
    opened, encoding = open_text(path)
    if encoding != "UTF-8":
        builder.notes.append(("encoding", f"{path.name}: {encoding}"))
    try:
        with opened as file:
            layout = find_layout(list(itertools.islice(limited_lines(file.readline, path), HEAD_LINES)))
            file.seek(0)
            if layout.columns == 0:
                raise DataError(f"{path} is empty. A table needs a header and at least one row.")
            lines = limited_lines(file.readline, path)
            if layout.skipped:
                list(itertools.islice(lines, layout.skipped))
                builder.notes.append(("skipped", f"{pluralize(layout.skipped, 'line')} before the table"))
            reader = layout.reader(lines)
            names = _column_names(path, layout, reader, builder)
            if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
                raise DataError(f"{path} has several columns named {join_names(repeated)}. Rename all but one of them.")
            is_named = layout.has_header and len(names) > 1 and not all(can_parse("number", name) for name in names)
            header = names if is_named else []
            yield from _read_chunks(path, reader, names, header, layout.skipped, builder)
    except (csv.Error, OSError, EOFError, UnicodeError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as CSV ({error}). It may be damaged, or have another format than its name says."
        ) from error


def _column_names(path: Path, layout: Layout, reader: Any, builder: ColumnBuilder) -> list[str]:
    """The names in the header, which is read, or names of our own."""
    if layout.has_header:
        names = [cell.strip() for cell in next(row for row in reader if row)]
        names[0] = names[0].removeprefix(layout.comment).strip()
        if layout.has_row_names:
            names.insert(0, ROW_NAMES)
            builder.notes.append(("header", f"the first column has no name, and is called {ROW_NAMES}"))
    else:
        names = [""] * layout.columns
        message = f"{path.name} has none; its columns are called column1 to column{len(names)}"
        builder.notes.append(("header", message))
    return [name if name and name not in MISSING_MARKS else f"column{i + 1}" for i, name in enumerate(names)]


def _read_chunks(
    path: Path, reader: Any, names: list[str], header: list[str], skipped_lines: int, builder: ColumnBuilder
) -> Iterator[TableChunk]:
    """Yield chunks of the rows that the CSV `reader` has left; rows with too many or too few cells are skipped.

    Lines that repeat the header are skipped too: files that were put one after another have them.
    """
    repeated = 0
    columns: list[list[str]] = [[] for _ in names]
    row_numbers: list[int] = []
    row_number = 0  # counts damaged rows as well, but not blank lines
    last_line = skipped_lines + reader.line_num
    while True:
        size = min(ROWS_PER_BATCH, ROWS_PER_CHUNK - len(row_numbers))
        batch = [(row, skipped_lines + reader.line_num) for row in itertools.islice(reader, size)]
        intact: list[list[str]] = []
        for row, line in batch:
            first_line, last_line = last_line + 1, line
            if row and header and row[0].strip() == header[0] and [cell.strip() for cell in row] == header:
                repeated += 1
            elif len(row) == len(names):
                intact.append(row)
                row_numbers.append(row_number)
            elif row:
                _skip_row(path, row, len(names), first_line, last_line, builder)
            row_number += bool(row)
        if intact:
            for column, cells in zip(columns, zip(*intact, strict=True), strict=True):
                column.extend(cells)
        if row_numbers and (not batch or len(row_numbers) == ROWS_PER_CHUNK):
            yield TableChunk(names, dict(zip(names, columns, strict=True)), np.array(row_numbers))
            columns, row_numbers = [[] for _ in names], []
        if not batch:
            if repeated:
                message = f"{pluralize(repeated, 'line')} of {path.name} that repeat{'s' * (repeated == 1)} the header"
                builder.notes.append(("skipped", message))
            return


def _skip_row(
    path: Path, row: Sequence[str], expected: int, first_line: int, last_line: int, builder: ColumnBuilder
) -> None:
    position, hint = f"{path.name} line {last_line}", ""
    if first_line != last_line:
        # a quotation mark that is never closed makes one row of all lines after it
        position = f"{path.name} lines {first_line} to {last_line}"
        hint = ", perhaps because a quotation mark is not closed"
    builder.skip_row(position, f"{pluralize(len(row), 'cell')} instead of {expected}{hint}")
