"""One column of a table as a compact array, because ten million cells must not become ten million objects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from icecore.core.errors import DataError

#: what a column holds: numbers, dates as seconds since 1970, or text
ColumnType = Literal["number", "date", "text"]


@dataclass(frozen=True)
class Column:
    """One column of N rows.

    values       (N,) float32 or float64, nan if missing; for text int32 indices into `levels`, -1 if missing
    levels       the distinct texts in order of appearance; None if there were too many to keep
    origin       "int", "float", "bool" or "str": the type in which predictions are returned
    number_hint  for text that looks like numbers: why it does, in words; otherwise empty
    """

    name: str
    type: ColumnType
    values: np.ndarray
    levels: Sequence[str] | None = ()
    origin: str = "float"
    number_hint: str = ""

    @property
    def distinct_texts(self) -> list[str]:
        """The distinct texts; empty if there were too many to keep."""
        return list(self.levels or ())

    def is_missing(self) -> np.ndarray:
        """(N,) bool, true where a row has no value."""
        return self.values < 0 if self.type == "text" else ~np.isfinite(self.values)

    def select(self, rows: np.ndarray) -> "Column":
        """The column of these rows only: an array of row indices, or of one bool per row."""
        return replace(self, values=self.values[rows])

    def as_labels(self) -> "Column":
        """The column as text: numbers become labels in ascending order, whole ones without a decimal point."""
        if self.type == "text":
            return self
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


def column_from_values(name: str, values: Any) -> Column:
    """The column of an array or list (N,) of numbers, booleans or texts. Raises DataError for anything else."""
    array = np.asarray(values)
    if array.dtype.kind == "O":
        array = _without_objects(name, array)
    if array.dtype.kind in "US":
        distinct, codes = np.unique(array.astype(str), return_inverse=True)
        levels = distinct.tolist()
        values = codes.astype(np.int32)
        if "" in levels:  # it sorts first
            levels, values = levels[1:], values - 1
        return Column(name, "text", values, levels, "str")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} must hold numbers or texts, but has values of type {array.dtype}.")
    origin = {"b": "bool", "u": "int", "i": "int", "f": "float"}[array.dtype.kind]
    return Column(name, "number", array.astype(np.float64), (), origin)


def _without_objects(name: str, array: np.ndarray) -> np.ndarray:
    """An array of Python objects as texts if it has any text, otherwise as numbers."""
    items = array.tolist()
    if any(isinstance(item, str) for item in items):
        array = np.asarray(["" if item is None else str(item) for item in items])
    if array.dtype.kind != "O":
        return array
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} must hold numbers or texts, but has values of several other types.") from None
