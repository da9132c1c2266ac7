"""Cells of a table and numbers of a sequence as JSON has them, read as the cells of a CSV file would be.

JSON has no NaN: a missing value is null. Python reads NaN and Infinity all the same, so they are found here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from icecore.core.text import shortened
from icecore.user_data.cell_types import cell_parser, is_missing_word

NOT_FINITE = "it must be a finite number, or null if it is missing"


def number_cell(value: Any, form: str = "") -> float:
    """A number, also as a text in the form of the training table; nan if missing. Raises ValueError with the reason."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        if is_missing_word(value) and value.strip().lower() != "nan":
            return math.nan
        try:
            value = cell_parser("number", form, known=True)(value)
        except ValueError:
            written = f" like {form}, as in training" if form else ""
            raise ValueError(f"it must hold a number{written}, but has {shortened(value)}.") from None
    if not isinstance(value, int | float):
        raise ValueError(f"it must hold a number, but has {shortened(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{shortened(value)}: {NOT_FINITE}.")
    return number


def date_cell(value: Any, form: str = "") -> float:
    """Seconds since 1970 of a date, by ISO 8601 or as in the training table; nan if missing. Raises ValueError."""
    if value is None:
        return math.nan
    for each in dict.fromkeys((form, "")):
        try:
            if isinstance(value, str):
                return cell_parser("date", each)(value)
        except (ValueError, OverflowError):
            pass
    example = {"day-first": "31/01/2026", "month-first": "01/31/2026"}.get(form, "2026-01-31")
    raise ValueError(f"it must hold a date such as {example}, but has {shortened(value)}.")


def text_cell(value: Any, form: str = "") -> str | None:
    """A text; None if missing. Numbers are written as a table has them. Raises ValueError with the reason."""
    if value is None or (isinstance(value, str) and is_missing_word(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else str(value)
    raise ValueError(f"it must hold a text, but has {shortened(value)}.")


#: how a cell is read, by the type of its column; also given is how the column's cells are written, unless plainly
CELLS: Mapping[str, Callable[[Any, str], Any]] = {"number": number_cell, "date": date_cell, "text": text_cell}


def float_array(value: Any) -> np.ndarray:
    """Nested lists of numbers as float32, nan where a number is null. Raises ValueError with the reason."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"it must be a list of numbers, but is {shortened(value)}.")
    try:
        with np.errstate(over="ignore"):
            array = np.array(value, np.float64)
            narrow = array.astype(np.float32)
    except OverflowError:
        raise ValueError(f"it has a number that is too large: {NOT_FINITE}.") from None
    except (TypeError, ValueError, RecursionError):
        raise ValueError("it must hold numbers only, in lists of equal lengths.") from None
    if not np.isfinite(narrow).all():
        objects = np.array(value, object)
        for place in np.argwhere(~np.isfinite(narrow)).tolist():
            if objects[tuple(place)] is not None:
                raise ValueError(f"at {place} it has {shortened(float(array[tuple(place)]))}: {NOT_FINITE}.")
    return narrow
