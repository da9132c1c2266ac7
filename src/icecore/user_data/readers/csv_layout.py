"""The layout of a CSV file, inferred from its first lines: lines before the table, delimiter, header, row names."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from icecore.user_data.cell_types import can_parse, is_missing_word

#: lines from which the layout is inferred
HEAD_LINES = 50
DELIMITERS = ",;\t|"
#: name of a first column that the header leaves out, as R writes it
ROW_NAMES = "row names"
#: cells that mean a missing value and are never a name; "NA" may be sodium
MISSING_MARKS = frozenset({"?", "-", "NaN", "nan", "n/a", "N/A", "#N/A", "NULL", "null"})
_SEPARATOR_LINE = re.compile(r"\"?sep=(.)\"?\s*", re.IGNORECASE)
#: a column holds numbers if more than this share of its present cells do
_SHARE_OF_COLUMNS = 0.5


@dataclass(frozen=True)
class Layout:
    """How the table of a CSV file begins.

    skipped        lines before it: `sep=;` of a spreadsheet program, and comments
    delimiter      " " stands for any number of blanks
    columns        cells of a row, 0 if the file is empty
    has_header     the first row names the columns
    has_row_names  the header leaves out the first column, as R writes tables
    comment        "#" if the header is written as a comment
    """

    skipped: int
    delimiter: str
    columns: int
    has_header: bool
    has_row_names: bool = False
    comment: str = ""

    def reader(self, lines: Iterable[str]) -> Any:
        """A reader of `csv` for the lines of the table."""
        return _rows(lines, self.delimiter)


def find_layout(lines: Sequence[str]) -> Layout:
    """The layout of a file that begins with these lines."""
    skipped, delimiter = 0, ""
    if lines and (match := _SEPARATOR_LINE.fullmatch(lines[0])):
        skipped, delimiter = 1, match[1]
    comments = sum(1 for _ in itertools.takewhile(lambda line: line.startswith("#"), lines[skipped:]))
    comments = comments if skipped + comments < len(lines) else 0
    delimiter = delimiter or _find_delimiter(lines[skipped + comments :])
    rows = [row for row in _rows(lines[skipped + comments :], delimiter) if row]
    if not rows:
        return Layout(skipped, delimiter, 0, False)
    if comments:
        # the last comment is the header if it has a name for each column
        last = next(iter(_rows([lines[skipped + comments - 1].lstrip("# ")], delimiter)), [])
        if len(last) == len(rows[0]) > 1 and has_header([last, *rows]):
            return Layout(skipped + comments - 1, delimiter, len(last), True, comment="#")
    with_header = has_header(rows)
    has_row_names = with_header and len(rows) > 1 and all(len(row) == len(rows[0]) + 1 for row in rows[1:])
    return Layout(skipped + comments, delimiter, len(rows[0]), with_header or has_row_names, has_row_names)


def _rows(lines: Iterable[str], delimiter: str) -> Any:
    if delimiter != " ":
        return csv.reader(lines, delimiter=delimiter)
    return csv.reader(_without_outer_blanks(lines), delimiter=" ", skipinitialspace=True)


def _without_outer_blanks(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip(" \t\r\n").replace("\t", " ") for line in lines)


def _find_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that divides the first lines into the most cells, with the same number in each line."""
    best, most_cells = "", 1
    for delimiter in DELIMITERS:
        cells = _count_cells(lines, delimiter)
        if cells > most_cells:
            best, most_cells = delimiter, cells
    if not best and _count_cells(lines, " ") > 1 and not any(mark in "".join(lines) for mark in DELIMITERS):
        return " "
    if not best:  # the lines have different numbers of cells: the most frequent delimiter of the header
        best = max(DELIMITERS, key=lines[0].count) if lines else ","
    return best


def _count_cells(lines: Sequence[str], delimiter: str) -> int:
    """Cells of each line, of which the first may have one fewer; 0 if the lines differ."""
    counts = [len(row) for row in _rows(lines, delimiter) if row]
    if not counts or len(set(counts[1:])) > 1:
        return 0
    first, others = counts[0], counts[-1]
    return others if first == others or (first > 1 and first == others - 1) else 0


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names columns: it has no numbers, or they count the columns, or the next rows differ.

    A mark of a missing value is no name, and above texts neither is a cell that appears again in its column.
    """
    first, others = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    is_number = [can_parse("number", cell) and not is_missing_word(cell) for cell in first]
    numbers = [float(cell) for cell, is_one in zip(first, is_number, strict=True) if is_one]
    is_counted = len(numbers) > 1 and all(b - a == 1 for a, b in itertools.pairwise(numbers))
    # pandas writes the columns of a frame without names as ",0,1"
    if is_counted and (len(numbers) > 2 or (not first[0].strip() and numbers[0] == 0)):
        return True
    columns = list(zip(*others, strict=True)) if others else [()] * len(first)
    holds_numbers = [_holds_numbers(cells) for cells in columns]
    above_numbers = sum(
        holds and not is_one and cell.strip() not in MISSING_MARKS
        for cell, is_one, holds in zip(first, is_number, holds_numbers, strict=True)
    )
    if any(cell.strip() in MISSING_MARKS for cell in first):
        return above_numbers > 0
    if any(is_number):
        # beside numbers, a missing cell is no name either
        pairs = zip(first, is_number, columns, strict=True)
        return bool(others) and any(
            is_one != _is_number_like(cells) for cell, is_one, cells in pairs if not is_missing_word(cell)
        )
    is_again = [bool(cell.strip()) and cell in cells for cell, cells in zip(first, columns, strict=True)]
    return above_numbers > 0 or not others or not any(is_again)


def _holds_numbers(cells: Sequence[str]) -> bool:
    """Whether most cells of a column that are not missing are numbers."""
    present = [cell for cell in cells if not is_missing_word(cell)]
    return bool(present) and sum(can_parse("number", cell) for cell in present) > _SHARE_OF_COLUMNS * len(present)


def _is_number_like(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, or only marks of missing values."""
    return _holds_numbers(cells) or all(map(is_missing_word, cells))
