"""Numbers as people write them: with a decimal comma, separators of thousands, a percent sign or a currency.

A format belongs to a whole column, never to a cell: "1,201" alone may be 1201 or 1.201. Where the cells of a column
leave both readings open, neither is taken.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from icecore.user_data.data_settings import DecimalMark

#: a number as programs write it; `float` also takes underscores and digits of other scripts, which are text here
PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
INFINITE_WORDS = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})
#: at least this share of a column's cells must be numbers for the column to be one of numbers
NUMBER_SHARE = 0.98
#: whole numbers with more digits than 64 bits hold are codes, or strings of digits
MAX_DIGITS = 19

_UNITS = "$€£¥%"
#: other blanks, and the minus of typesetting
_SPACES = str.maketrans("\u00a0\u202f\u2009\u2212", "   -")
#: a negative amount as accountants write it
_IN_PARENTHESES = re.compile(r"\(\s*([^-+()]+?)\s*\)")
_PARTS = re.compile(rf"([+-]?)([$€£¥]?)\s*([+-]?)(\d[\d.,' ]*(?:[eE][+-]?\d+)?)\s*([{_UNITS}]?)")
#: marks of decimals and of thousands, the plain ones first
_MARKS = ((".", ""), (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"))


class NumberFormat(NamedTuple):
    """The marks of decimals and of thousands, and the unit, "" if there is none.

    >>> NumberFormat(",", ".", "%").parse("1.234,5 %")
    1234.5
    """

    decimal: str = "."
    thousands: str = ""
    unit: str = ""

    def __str__(self) -> str:
        return f"1{self.thousands}234{self.decimal}5{self.unit}"

    @classmethod
    def from_example(cls, text: str) -> "NumberFormat":
        """The inverse of `str`. Raises ValueError for other texts."""
        match = re.fullmatch(r"1([.,' ]?)234([.,])5([$€£¥%]?)", text)
        if match is None:
            raise ValueError(f"{text!r} is not the example of a number format")
        return cls(match[2], match[1], match[3])

    def parse(self, cell: str) -> float:
        """The number in a cell. Raises ValueError if it is not written in this format."""
        parts = _split(cell)
        # 0.05 beside 5% may be the same number
        if parts is None or parts[1] not in ({self.unit} if self.unit == "%" else {"", self.unit}):
            raise ValueError(f"{cell!r} is not a number like {self}")
        return _value(parts[0], self.decimal, self.thousands)


def _split(cell: str) -> tuple[str, str] | None:
    """Number with its sign, and unit, of a cell; None if it has another form."""
    text = cell.strip().translate(_SPACES)
    if (inside := _IN_PARENTHESES.fullmatch(text)) is not None:
        text = f"-{inside[1]}"
    match = _PARTS.fullmatch(text)
    if match is None or (match[1] and match[3]) or (match[2] and match[5]):
        return None
    return match[1] + match[3] + match[4].strip(), match[2] or match[5]


@lru_cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    d, t = re.escape(decimal), re.escape(thousands)
    grouped = rf"|[1-9]\d{{0,2}}(?:{t}\d{{3}})+" if thousands else ""
    return re.compile(rf"[+-]?(?:\d+{grouped})(?:{d}\d*)?(?:[eE][+-]?\d+)?", re.ASCII)


def _value(text: str, decimal: str, thousands: str) -> float:
    if _pattern(decimal, thousands).fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a number with {decimal!r} before its decimals")
    return float(text.replace(thousands, "").replace(decimal, ".") if thousands else text.replace(decimal, "."))


def find_number_format(cells: Sequence[str], decimal: DecimalMark = "auto") -> tuple[NumberFormat | None, str]:
    """The one format in which nearly all of these cells are numbers, or None and, if two differ, which ones.

    >>> find_number_format(["5,5", "1,201"])
    (NumberFormat(decimal=',', thousands='', unit=''), '')
    >>> find_number_format(["900", "1,201"])
    (None, "'1,201' may be 1.201 or 1201")
    """
    parts = [part for cell in cells if (part := _split(cell)) is not None]
    if not parts or len(parts) < NUMBER_SHARE * len(cells):
        return None, ""
    units = {unit for _, unit in parts}
    # 7 beside $5 is 7 dollars, but 0.05 beside 5% may be the same number
    if len(units - {""}) > 1 or ("%" in units and len(units) > 1):
        return None, ""
    wanted = {"point": ".", "comma": ","}.get(decimal)
    fitting: dict[tuple[str, str], list[float | None]] = {}
    for marks in _MARKS:
        values = [_value_or_none(text, *marks) for text, _ in parts]
        known = sum(value is not None for value in values)
        if known >= NUMBER_SHARE * len(cells) and wanted in (None, marks[0]):
            fitting[marks] = values
    if not fitting:
        return None, ""
    (best, values), *others = fitting.items()
    for other in (each for _, each in others):
        differing = next((i for i, pair in enumerate(zip(values, other, strict=True)) if _differ(*pair)), -1)
        if differing >= 0 and wanted is None:
            return None, f"{parts[differing][0]!r} may be {values[differing]:g} or {other[differing]:g}"
    return NumberFormat(*best, (units - {""}).pop() if units - {""} else ""), ""


def _value_or_none(text: str, decimal: str, thousands: str) -> float | None:
    try:
        return _value(text, decimal, thousands)
    except ValueError:
        return None


def _differ(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a != b
