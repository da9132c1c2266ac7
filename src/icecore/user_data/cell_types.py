"""What a cell of a text file means: a number, a date, text, or a missing value.

A column of whole numbers with leading zeros is text (007 is not 7), and text that looks like numbers is reported.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from icecore.user_data.columns import ColumnType
from icecore.user_data.data_settings import DateOrder
from icecore.user_data.number_formats import INFINITE_WORDS, MAX_DIGITS, NUMBER_SHARE, PLAIN_NUMBER, NumberFormat

#: cells that mean a missing value, in lower case
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a", "nat"})
#: those that mean a missing value in a text target too; the others, such as "none" or "-", may be classes
MISSING_CLASS_WORDS = frozenset({"", "nan", "null"})
#: the two truth values in lower case, and what they are as a number
BOOLEAN_WORDS: Mapping[str, float] = {"false": 0.0, "true": 1.0}
#: longer cells are texts, and are not looked at: a small file may repeat a long text in all of its rows
MAX_NUMBER_LENGTH = 1000
#: a column holds numbers, or dates, if at least this share of the cells in its first chunk do
TYPE_SHARE = NUMBER_SHARE
#: a text column is reported as looking like numbers if at least this share of its first chunk does
NUMBER_LIKE_SHARE = 0.5

_ORDERED_DATE = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})([ T]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?")
_MONTH = re.compile(r"[12]\d{3}[-/](?:0[1-9]|1[0-2])")
_LEADING_ZERO = re.compile(r"\s*0\d+\s*")
#: numbers with a unit or the name of a currency, such as 12.5 kg and USD 3
_NUMBER_WITH_UNIT = re.compile(r"([A-Z]{3} )?[+-]?\d[\d.,']*( ?[A-Za-z\u00b5\u00b0\u00b2\u00b3/]{1,9})?")
#: fewer different cells with one unit are categories, whatever they are
MIN_CELLS_WITH_UNIT = 11
#: numbers with a currency or percent sign, or with separators of thousands, which `float` cannot read
_FORMATTED_NUMBER = re.compile(
    r"[+-]?[$€£¥]?\s*[+-]?(\d{1,3}([,' \u00a0\u202f]\d{3})+|\d+)([.,]\d+)?\s*[$€£¥%]?|\d{1,3}(\.\d{3})+,\d+"
)


def is_missing_word(cell: str) -> bool:
    """Whether a cell means a missing value."""
    return len(cell) <= MAX_NUMBER_LENGTH and cell.strip().lower() in MISSING_WORDS


def truth_word(text: str) -> str:
    """ "true" or "false" for every spelling of a truth value, and for the numbers that stand for them; or the text."""
    word = text.strip().lower()
    return {"0": "false", "1": "true", "0.0": "false", "1.0": "true"}.get(word, word)


def are_truth_values(levels: Sequence[str]) -> bool:
    """Whether these labels or categories are true and false, or one of them, in any spelling."""
    words = {level.strip().lower() for level in levels}
    return bool(words) and len(words) == len(levels) and words <= BOOLEAN_WORDS.keys()


def parse_number(cell: str) -> float:
    """The plain number in a cell, nan if it means a missing value. Raises ValueError for other text.

    `float` takes more: 1_1 and digits of other scripts are text here, because they may be labels.
    """
    text = cell.strip()
    if PLAIN_NUMBER.fullmatch(text) or text.lower() in INFINITE_WORDS:
        return float(text)
    if text.lower() in MISSING_WORDS:
        return math.nan
    raise ValueError(f"{cell!r} is not a number")


def parse_known_number(cell: str) -> float:
    """As `parse_number`, for a column that is known to hold numbers: truth values are 0 and 1."""
    truth = BOOLEAN_WORDS.get(cell.strip().lower())
    return parse_number(cell) if truth is None else truth


def parse_date(cell: str) -> float:
    """Seconds since 1970 of an ISO 8601 date or time, also with slashes; UTC if it names no time zone.

    A month such as 2024-05 is its first day. nan if the cell means a missing value. Raises ValueError for other text.
    """
    text = cell.strip()
    if text.lower() in MISSING_WORDS:
        return math.nan
    if _MONTH.fullmatch(text):
        text += "-01"
    if len(text) < 8 or not text[:4].isdecimal() or text.isdecimal():
        raise ValueError(f"{cell!r} is not an ISO 8601 date")
    moment = datetime.fromisoformat(text.replace("/", "-"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_ordered_date(cell: str, day_first: bool) -> float:
    """As `parse_date`, of a date that begins with day and month, such as 31.12.2024 or 12/31/2024 08:30."""
    text = cell.strip()
    if text.lower() in MISSING_WORDS:
        return math.nan
    match = _ORDERED_DATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{cell!r} is not a date that begins with day and month")
    day, month = (int(match[1]), int(match[3])) if day_first else (int(match[3]), int(match[1]))
    return parse_date(f"{match[4]}-{month:02}-{day:02}{match[5] or ''}")


def find_date_order(cells: Sequence[str], order: DateOrder = "auto") -> tuple[str, str]:
    """ "day-first" or "month-first" if nearly all cells are such dates, otherwise "" and, if both fit, why not."""
    matches = [match for cell in cells if (match := _ORDERED_DATE.fullmatch(cell.strip()))]
    if not matches or len(matches) < TYPE_SHARE * len(cells):
        return "", ""
    day_first = all(int(match[3]) <= 12 for match in matches)
    month_first = all(int(match[1]) <= 12 for match in matches)
    if all(match[2] == "." for match in matches):
        month_first = False  # only dates that begin with the day are written with points
    if not (day_first or month_first):
        return "", ""
    if day_first and month_first and order == "auto":
        return "", f"{matches[0][0]!r} may begin with the day or with the month (--dates day-first or month-first)"
    return order if day_first and month_first else "day-first" if day_first else "month-first", ""


def cell_parser(kind: str, form: str = "", known: bool = False) -> Callable[[str], float]:
    """The function that reads a cell of a column of this kind, a key of `PARSERS`.

    form   how the column's numbers or dates are written, as the encoder of a program keeps it; "" if plainly
    known  the kind is that of the training data
    """
    if form in ("day-first", "month-first"):
        return lambda cell: parse_ordered_date(cell, form == "day-first")
    if form:
        number_format = NumberFormat.from_example(form)
        return lambda cell: math.nan if is_missing_word(cell) else number_format.parse(cell)
    return parse_known_number if known and kind == "number" else PARSERS[kind]


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


def find_long_number(cells: Sequence[str]) -> str:
    """A whole number with more digits than any integer of a computer has; then they are codes, or strings of digits."""
    return next((cell for cell in cells if len(cell) > MAX_DIGITS and cell.strip().lstrip("+-").isdecimal()), "")


def _describe_unit(cells: Sequence[str]) -> str:
    """As `describe_number_like`, for numbers that all have one unit."""
    if len(set(cells)) < MIN_CELLS_WITH_UNIT:
        return ""
    matches = [_NUMBER_WITH_UNIT.fullmatch(cell.strip()) for cell in cells if len(cell) <= MAX_NUMBER_LENGTH]
    units = {(match[1] or "") + (match[2] or "") if match else "" for match in matches}
    if len(matches) < len(cells) or len(units) != 1 or "" in units:
        return ""
    return f"all of its cells are numbers with {units.pop().strip()!r}"


def describe_number_like(cells: Sequence[str]) -> str:
    """Why a text column looks numeric, such as "95 % of its cells are numbers, but '<0.5' is not"; otherwise empty."""
    is_number = [can_parse("number", cell) for cell in cells]
    is_formatted = [
        len(cell) <= MAX_NUMBER_LENGTH and bool(_FORMATTED_NUMBER.fullmatch(cell.strip())) for cell in cells
    ]
    like = sum(plain or formatted for plain, formatted in zip(is_number, is_formatted, strict=True))
    if not cells or like < NUMBER_LIKE_SHARE * len(cells):
        return _describe_unit(cells)
    if like < len(cells):
        # a cell that is nothing like a number explains more than one that is only formatted
        example = next(c for c, *is_like in zip(cells, is_number, is_formatted, strict=True) if not any(is_like))
        return f"{math.floor(100 * like / len(cells))} % of its cells are numbers, but {example!r} is not"
    example = next(cell for cell, plain in zip(cells, is_number, strict=True) if not plain)
    return f"all of its cells are numbers, but not plain ones, for example {example!r}"
