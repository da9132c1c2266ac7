"""What a cell of a text file means: a number, a date, text, or a missing value.

A column of whole numbers with leading zeros is text (007 is not 7), and text that looks like numbers is reported.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from icecore.user_data.columns import ColumnType

#: cells that mean a missing value, in lower case
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a", "nat"})
#: those that mean a missing value in a text target too; the others, such as "none" or "-", may be classes
MISSING_CLASS_WORDS = frozenset({"", "nan", "null"})
#: longer cells are texts, and are not looked at: a small file may repeat a long text in all of its rows
MAX_NUMBER_LENGTH = 1000
#: a column holds numbers, or dates, if at least this share of the cells in its first chunk do
TYPE_SHARE = 0.98
#: a text column is reported as looking like numbers if at least this share of its first chunk does
NUMBER_LIKE_SHARE = 0.5

_LEADING_ZERO = re.compile(r"\s*0\d+\s*")
#: numbers with a currency or percent sign, or with separators of thousands, which `float` cannot read
_FORMATTED_NUMBER = re.compile(
    r"[+-]?[$€£¥]?\s*[+-]?(\d{1,3}([,' \u00a0\u202f]\d{3})+|\d+)([.,]\d+)?\s*[$€£¥%]?|\d{1,3}(\.\d{3})+,\d+"
)


def is_missing_word(cell: str) -> bool:
    """Whether a cell means a missing value."""
    return len(cell) <= MAX_NUMBER_LENGTH and cell.strip().lower() in MISSING_WORDS


def parse_number(cell: str) -> float:
    """The number in a cell, nan if it means a missing value. Raises ValueError for other text."""
    try:
        return float(cell)
    except ValueError:
        if is_missing_word(cell):
            return math.nan
        raise


def parse_date(cell: str) -> float:
    """Seconds since 1970 of an ISO 8601 date or time, also with slashes; UTC if it names no time zone.

    nan if the cell means a missing value. Raises ValueError for other text.
    """
    text = cell.strip()
    if text.lower() in MISSING_WORDS:
        return math.nan
    if len(text) < 8 or not text[:4].isdecimal() or text.isdecimal():
        raise ValueError(f"{cell!r} is not an ISO 8601 date")
    moment = datetime.fromisoformat(text.replace("/", "-"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


PARSERS: Mapping[str, Callable[[str], float]] = {"number": parse_number, "date": parse_date}


def can_parse(kind: str, cell: str) -> bool:
    """Whether the cell is of this kind, a key of `PARSERS`, or means a missing value."""
    if len(cell) > MAX_NUMBER_LENGTH:
        return False
    try:
        PARSERS[kind](cell)
    except ValueError:
        return False
    return True


def infer_type(cells: Sequence[str]) -> ColumnType:
    """The type that nearly all of these cells have; cells that mean a missing value must be left out."""
    for kind in ("number", "date"):
        if cells and sum(can_parse(kind, cell) for cell in cells) >= TYPE_SHARE * len(cells):
            return kind
    return "text"


def find_leading_zero(cells: Sequence[str]) -> str:
    """A cell such as "007", if all numbers among the cells are whole; then they are codes. Empty if there is none."""
    example = next(filter(_LEADING_ZERO.fullmatch, cells), "")
    if example and all(cell.strip().isdecimal() for cell in cells if can_parse("number", cell)):
        return example
    return ""


def describe_number_like(cells: Sequence[str]) -> str:
    """Why a text column looks numeric, such as "95% of its cells are numbers, but '<0.5' is not"; otherwise empty."""
    is_number = [can_parse("number", cell) for cell in cells]
    is_formatted = [
        len(cell) <= MAX_NUMBER_LENGTH and bool(_FORMATTED_NUMBER.fullmatch(cell.strip())) for cell in cells
    ]
    like = sum(plain or formatted for plain, formatted in zip(is_number, is_formatted, strict=True))
    if not cells or like < NUMBER_LIKE_SHARE * len(cells):
        return ""
    if like < len(cells):
        # a cell that is nothing like a number explains more than one that is only formatted
        example = next(c for c, *is_like in zip(cells, is_number, is_formatted, strict=True) if not any(is_like))
        return f"{math.floor(100 * like / len(cells))}% of its cells are numbers, but {example!r} is not"
    example = next(cell for cell, plain in zip(cells, is_number, strict=True) if not plain)
    return f"all of its cells are numbers, but not plain ones, for example {example!r}"
