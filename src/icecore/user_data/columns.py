"""One column of a table as a compact array, because ten million cells must not become ten million objects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from icecore.core.errors import DataError

#: what a column holds: numbers, dates as seconds since 1970, or text
ColumnType = Literal["number", "date", "text"]
#: whole numbers up to this size are exact in float64
LARGEST_EXACT = 2**53


@dataclass(frozen=True)
class Column:
    """One column of N rows.

    values       (N,) float32 or float64, nan if missing; for text int32 indices into `levels`, -1 if missing
    levels       the distinct texts in order of appearance; None if there were too many to keep
    origin       "int", "float", "bool" or "str": the type in which predictions are returned
    number_hint  for text that looks like numbers: why it does, in words; otherwise empty
    as_written   the cells as texts, if the numbers do not give these back: 1.10 is not 1.1 as a label
    unreadable   cells that should hold a number or date but do not, and count as missing
    """

    name: str
    type: ColumnType
    values: np.ndarray
    levels: Sequence[str] | None = ()
    origin: str = "float"
    number_hint: str = ""
    as_written: "Column | None" = None
    unreadable: int = 0

    @property
    def distinct_texts(self) -> list[str]:
        """The distinct texts; empty if there were too many to keep."""
        return list(self.levels or ())

    def row_texts(self) -> list[str]:
        """The text of each row of a text column, empty if missing."""
        levels = [*self.distinct_texts, ""]
        return [levels[code] for code in self.values]

    def is_missing(self) -> np.ndarray:
        """(N,) bool, true where a row has no value."""
        return self.values < 0 if self.type == "text" else ~np.isfinite(self.values)

    def select(self, rows: np.ndarray) -> "Column":
        """The column of these rows only: an array of row indices, or of one bool per row."""
        written = None if self.as_written is None else self.as_written.select(rows)
        return replace(self, values=self.values[rows], as_written=written)

    def as_labels(self) -> "Column":
        """The column as text: as it was written, or else numbers in ascending order, whole ones without a point."""
        if self.type == "text":
            return self
        if self.as_written is not None:
            return self.as_written
        present = ~self.is_missing()
        distinct, indices = np.unique(self.values[present], return_inverse=True)
        codes = np.full(len(self.values), -1, np.int32)
        codes[present] = indices
        is_whole = not (distinct % 1).any()
        labels = [str(int(v)) if is_whole else repr(float(v)) for v in distinct]
        if self.origin == "bool":
            labels = [str(bool(v)) for v in distinct]
        origin = "int" if is_whole and self.origin == "float" else self.origin
        return Column(self.name, "text", codes, labels, origin)


def as_array(values: Any) -> np.ndarray:
    """Values (N,) as an array. Whole numbers of pandas that may be missing are objects, as floats would be rounded."""
    kind = getattr(values, "dtype", None)
    if kind is not None and not isinstance(kind, np.dtype) and getattr(kind, "kind", "") in ("i", "u", "b"):
        return np.asarray(values.astype(object))
    return np.asarray(values)


def column_from_values(name: str, values: Any) -> Column:
    """The column of an array, list or pandas series (N,) of numbers, truth values, dates or texts.

    Raises DataError for anything else, and for values of several types, which would become one label.
    """
    array = as_array(values)
    if isinstance(values, list | tuple) and array.dtype.kind in "USiuf":
        array = np.asarray(values, object)  # otherwise numbers beside texts become texts, and truth values numbers
    if array.dtype.kind == "O":
        return _column_of_objects(name, array.tolist())
    if array.dtype.kind in "US":
        return _text_column(name, array.astype(str))
    if array.dtype.kind == "M":
        return Column(name, "date", _seconds(array), (), "date")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} must hold numbers or texts, but has values of type {array.dtype}.")
    origin = {"b": "bool", "u": "int", "i": "int", "f": "float"}[array.dtype.kind]
    written = exact_integers(name, array) if origin == "int" else None
    return Column(name, "number", array.astype(np.float64), (), origin, as_written=written)


def exact_integers(name: str, integers: np.ndarray) -> Column | None:
    """Whole numbers (N,) as texts in ascending order, if float64 would round some of them; otherwise None."""
    if not len(integers) or max(abs(int(integers.min())), abs(int(integers.max()))) <= LARGEST_EXACT:
        return None
    distinct, codes = np.unique(integers, return_inverse=True)
    return Column(name, "text", codes.astype(np.int32), [str(each) for each in distinct.tolist()], "int")


def is_missing_value(item: Any) -> bool:
    """Whether a Python object means a missing value: None, nan, or one of the marks of pandas."""
    if item is None or type(item).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(item, float | np.floating) and bool(item != item)


def _text_column(name: str, texts: np.ndarray) -> Column:
    """The column of an array of texts (N,), "" where one is missing."""
    distinct, codes = np.unique(texts, return_inverse=True)
    levels = distinct.tolist()
    values = codes.astype(np.int32)
    if "" in levels:  # it sorts first
        levels, values = levels[1:], values - 1
    return Column(name, "text", values, levels, "str")


def _seconds(moments: np.ndarray) -> np.ndarray:
    """Dates (N,) of any precision as seconds since 1970, nan if missing."""
    seconds = moments.astype("datetime64[us]").astype(np.int64) / 1e6
    seconds[np.isnat(moments)] = math.nan
    return seconds


def _column_of_objects(name: str, items: list[Any]) -> Column:
    """The column of Python objects of one kind, some of which may be missing. Raises DataError."""
    is_missing = np.array([is_missing_value(item) for item in items], bool)
    present = [item for item, missing in zip(items, is_missing, strict=True) if not missing]
    kinds = {_kind_of(item) for item in present}
    if kinds <= {"int", "float"} and len(kinds) == 2:
        kinds = {"float"}
    if len(kinds) > 1 or "" in kinds:
        types = ", ".join(sorted({type(item).__name__ for item in present}))
        raise DataError(
            f"{name} must hold numbers or texts, but has values of several other types: {types}. "
            "Give all values one type, for example with str()."
        )
    kind = next(iter(kinds), "float")
    if kind == "text":
        return _text_column(name, np.array(["" if gone else str(x) for x, gone in zip(items, is_missing, strict=True)]))
    if kind == "date":
        moments = [np.datetime64("NaT") if gone else _utc(x) for x, gone in zip(items, is_missing, strict=True)]
        return Column(name, "date", _seconds(np.array(moments, "datetime64[us]")), (), "date")
    values = np.full(len(items), math.nan)
    values[~is_missing] = [_float_of(item) for item in present]
    written = None
    if kind == "int" and any(abs(int(item)) > LARGEST_EXACT for item in present):
        levels = [str(each) for each in sorted({int(item) for item in present})]
        code_of = {level: code for code, level in enumerate(levels)}
        codes = [-1 if gone else code_of[str(int(x))] for x, gone in zip(items, is_missing, strict=True)]
        written = Column(name, "text", np.array(codes, np.int32), levels, "int")
    return Column(name, "number", values, (), kind, as_written=written)


def _float_of(item: Any) -> float:
    """A number as float64, infinite if it is too large for that."""
    try:
        return float(item)
    except OverflowError:
        return math.inf if item > 0 else -math.inf


def _kind_of(item: Any) -> str:
    """What a Python object is: "text", "bool", "int", "float" or "date"; empty for anything else."""
    if isinstance(item, str):
        return "text"
    if isinstance(item, bool | np.bool_):
        return "bool"
    if isinstance(item, int | np.integer):
        return "int"
    if isinstance(item, float | np.floating | Decimal):
        return "float"
    return "date" if isinstance(item, date | np.datetime64) else ""


def _utc(moment: Any) -> np.datetime64:
    """A date or time as UTC, which it is if it names no time zone."""
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(moment)
