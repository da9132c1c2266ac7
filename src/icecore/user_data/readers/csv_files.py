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
from icecore.core.text import pluralize
from icecore.user_data.cell_types import can_parse, is_missing_word
from icecore.user_data.column_builder import ColumnBuilder, TableChunk
from icecore.user_data.notes import join_names
from icecore.user_data.readers.text_files import open_text

#: rows of a chunk; column types are inferred from the first one
ROWS_PER_CHUNK = 65_536
#: rows that are turned into columns at once: so few stay in the processor's cache
ROWS_PER_BATCH = 128
#: lines from which delimiter and header are inferred
HEAD_LINES = 50
DELIMITERS = ",;\t|"


def read_csv(path: Path, builder: ColumnBuilder) -> Iterator[TableChunk]:
    """Yield the chunks of a CSV or TSV file. Notes and damaged rows go to the builder. Raises DataError."""
    csv.field_size_limit(MAX_LINE)  # a cell may hold a chromosome
    opened, encoding = open_text(path)
    if encoding != "UTF-8":
        builder.notes.append(("encoding", f"{path.name}: {encoding}"))
    try:
        with opened as file:
            head = list(itertools.islice(limited_lines(file.readline, path), HEAD_LINES))
            file.seek(0)
            delimiter = _find_delimiter(head)
            first_rows = [row for row in csv.reader(head, delimiter=delimiter) if row][:2]
            if not first_rows:
                raise DataError(f"{path} is empty. A table needs a header and at least one row.")
            reader = csv.reader(limited_lines(file.readline, path), delimiter=delimiter)
            if _has_header(*first_rows):
                names = [cell.strip() for cell in next(row for row in reader if row)]
                if delimiter == ";":
                    names = [_with_decimal_point(name) for name in names]
            else:
                names = [""] * len(first_rows[0])
                message = f"{path.name} has none; its columns are called column1 to column{len(names)}"
                builder.notes.append(("header", message))
            names = [name or f"column{i + 1}" for i, name in enumerate(names)]
            if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
                raise DataError(f"{path} has several columns named {join_names(repeated)}. Rename all but one of them.")
            yield from _read_chunks(path, reader, names, delimiter == ";", builder)
    except (csv.Error, OSError, EOFError, UnicodeError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as CSV ({error}). It may be damaged, or have another format than its name says."
        ) from error


def _read_chunks(
    path: Path, reader: Any, names: list[str], has_decimal_commas: bool, builder: ColumnBuilder
) -> Iterator[TableChunk]:
    """Yield chunks of the rows that the CSV `reader` has left; rows with too many or too few cells are skipped."""
    columns: list[list[str]] = [[] for _ in names]
    row_numbers: list[int] = []
    row_number = 0  # counts damaged rows as well, but not blank lines
    last_line = reader.line_num
    while True:
        size = min(ROWS_PER_BATCH, ROWS_PER_CHUNK - len(row_numbers))
        batch = [(row, reader.line_num) for row in itertools.islice(reader, size)]
        intact: list[list[str]] = []
        for row, line in batch:
            first_line, last_line = last_line + 1, line
            if len(row) == len(names):
                intact.append([_with_decimal_point(cell) for cell in row] if has_decimal_commas else row)
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


def _find_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that divides the first lines into the most cells, with the same number in each line."""
    best, most_cells = ",", 1
    for delimiter in DELIMITERS:
        cell_counts = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
        if len(cell_counts) == 1 and (cells := cell_counts.pop()) > most_cells:
            best, most_cells = delimiter, cells
    if most_cells == 1:  # the lines have different numbers of cells: the most frequent delimiter of the header
        best = max(DELIMITERS, key=lines[0].count) if lines else ","
    return best


def _has_header(first: Sequence[str], second: Sequence[str] = ()) -> bool:
    """Whether the first row names columns: it has no numbers, or they count the columns, or the next row differs."""
    is_number = [can_parse("number", cell) and not is_missing_word(cell) for cell in first]
    if not any(is_number):
        return True
    numbers = [float(cell) for cell, is_one in zip(first, is_number, strict=True) if is_one]
    if len(numbers) > 2 and all(b - a == 1 for a, b in itertools.pairwise(numbers)):
        return True
    return len(second) == len(first) and is_number != [can_parse("number", cell) for cell in second]


def _with_decimal_point(cell: str) -> str:
    """A number with a decimal comma, as tables have it that semicolons delimit, with a point; other cells unchanged."""
    whole, comma, rest = cell.partition(",")
    return f"{whole}.{rest}" if comma and rest.isdecimal() and whole.strip().lstrip("+-").isdecimal() else cell
