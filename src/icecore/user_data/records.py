"""One's own data as it was read, before anything is fitted: settings, columns, rows.

Every reader gives `Records`, whatever the format; codes (codes.py) and targets (targets.py) know
nothing of files. Columns are compact arrays: ten million rows must not become ten million objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from icecore.core.errors import ConfigError, DataError

SourceKind = Literal["auto", "images", "table", "array", "series", "strings", "fasta"]
TaskKind = Literal["auto", "classification", "regression"]
#: how a column was read: numbers, seconds since 1970, or text
ColumnType = Literal["number", "date", "text"]
SPLITS = ("train", "val", "test")
#: names of splits in folders, files and columns
SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MAX_ROWS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a user may say of the data; everything else is found out.

    target    columns to predict (default: one of a usual name, else the last)
    task      classification or regression
    kind      what the data are
    column    the column that holds sequences of characters
    series    column that says which series a row belongs to (a long table of time series)
    time      column that orders the rows of a series
    values    columns of measured values (default: every numeric one)
    patch     side of an image patch; columns, or points in time, a token
    size      side of the squares that images become, pixels
    length    longest sequence kept, in characters or points in time
    val, test shares of rows held out, where the data have no such split of their own; at most 10,000 rows each
    strict    refuse what would be skipped and counted
    max_rows  larger tables are sampled
    drop      columns to leave out
    """

    target: tuple[str, ...] = ()
    task: TaskKind = "auto"
    kind: SourceKind = "auto"
    column: str | None = None
    series: str | None = None
    time: str | None = None
    values: tuple[str, ...] = ()
    patch: int | None = None
    size: int | None = None
    length: int | None = None
    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    strict: bool = False
    max_rows: int | None = None
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in (("kind", get_args(SourceKind)), ("task", get_args(TaskKind))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}: expected one of {', '.join(choices)}, found {getattr(self, name)!r}")
        for name in ("patch", "size", "length", "max_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, found {value}")
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise ConfigError(
                f"val and test: expected shares of at least 0 that leave rows to train on, "
                f"found {self.val} and {self.test}"
            )


@dataclass(frozen=True)
class Column:
    """One column of N rows.

    values  (N,) float32 or float64 with nan where missing, or, for text, int32 places in `levels`, -1 missing
    levels  the distinct texts, in order of appearance; None where there were too many to keep
    origin  "int", "float", "bool" or "str": what predictions are given back as
    doubt   of text: why it looks like numbers all the same, in words
    """

    name: str
    type: ColumnType
    values: np.ndarray
    levels: Sequence[str] | None = ()
    origin: str = "float"
    doubt: str = ""

    @property
    def texts(self) -> list[str]:
        """The distinct texts; none where there were too many to keep."""
        return list(self.levels or ())

    def missing(self) -> np.ndarray:
        """(N,) bool, true where there is no value."""
        return self.values < 0 if self.type == "text" else ~np.isfinite(self.values)

    def rows(self, index: np.ndarray) -> "Column":
        """The rows that `index` selects."""
        return replace(self, values=self.values[index])

    def labelled(self) -> "Column":
        """The same as text: numbers become labels, whole ones without a point, in ascending order."""
        if self.type == "text":
            return self
        present = ~self.missing()
        distinct, places = np.unique(self.values[present], return_inverse=True)
        codes = np.full(len(self.values), -1, np.int32)
        codes[present] = places
        whole = not (distinct % 1).any()
        names = [str(int(v)) if whole else repr(float(v)) for v in distinct]
        if self.origin == "bool":
            names = [str(bool(v)) for v in distinct]
        origin = "int" if whole and self.origin == "float" else self.origin
        return Column(self.name, "text", codes, names, origin)


def column_of(name: str, values: Any) -> Column:
    """The column of an array or list (N,) of numbers, truth values or texts. Raises DataError for other kinds."""
    array = np.asarray(values)
    if array.dtype.kind == "O":
        array = np.asarray(["" if v is None else str(v) for v in array.tolist()]) if _texts(array) else array
        if array.dtype.kind == "O":
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError):
                raise DataError(f"{name}: expected numbers or texts, found a mixture of kinds") from None
    if array.dtype.kind in "US":
        distinct, codes = np.unique(array.astype(str), return_inverse=True)
        levels = distinct.tolist()
        values = codes.astype(np.int32)
        if "" in levels:  # sorted, so it is the first
            levels, values = levels[1:], values - 1
        return Column(name, "text", values, levels, "str")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name}: expected numbers or texts, found {array.dtype}")
    origin = {"b": "bool", "u": "int", "i": "int", "f": "float"}[array.dtype.kind]
    return Column(name, "number", array.astype(np.float64), (), origin)


def _texts(array: np.ndarray) -> bool:
    return any(isinstance(value, str) for value in array.tolist())


@dataclass(frozen=True)
class Sequences:
    """N sequences of points (V values each), one after another: points (sum of lengths, V) float32."""

    points: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Any) -> "Sequences":
        """From an array (N, T) or (N, T, V), or a list of arrays (T,) or (T, V) of any lengths. Raises DataError."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind != "O":
            cube = rows[..., None] if rows.ndim == 2 else rows
            lengths = np.full(len(cube), cube.shape[1])
            with np.errstate(over="ignore"):  # what is beyond float32 is no value
                return cls(np.asarray(cube, np.float32).reshape(-1, cube.shape[2]), lengths)
        try:
            with np.errstate(over="ignore"):
                parts = [np.asarray(row, np.float32) for row in rows]
        except (TypeError, ValueError) as error:
            raise DataError(f"sequences: expected numbers, found {error}") from None
        parts = [part[:, None] if part.ndim == 1 else part for part in parts]
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise DataError(f"sequences: expected (T, V) with one V for all, found shapes {sorted(shapes)[:4]}")
        return cls(np.concatenate(parts), np.array([len(part) for part in parts]))


@dataclass(frozen=True)
class RawRows:
    """N rows as they were read.

    form     which code turns them into tokens: "images", "table", "sequences" or "strings"
    inputs   for "images" an ImageFiles, for "table" columns by name, Sequences, a list of N texts
    targets  columns to predict; empty where the data have none
    names    (N,) a name for each row: file name, id or number
    splits   (N,) "train", "val", "test", or "" where it is ours to choose; None: all are
    source   what was read: format, files
    notes    (what, in words) of whatever was guessed, dropped, filled or skipped
    """

    form: str
    inputs: Any
    targets: Mapping[str, Column]
    names: Sequence[str]
    splits: np.ndarray | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.names)


class RowNumbers(Sequence[str]):
    """Names "0", "1", ... that are not kept: the texts of `numbers` (N,)."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        found = self.numbers[place]
        return RowNumbers(found) if isinstance(place, slice) else str(int(found))


def listed(items: Sequence[str], most: int = 5) -> str:
    """The first few of `items` in words.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    head = ", ".join(items[:most])
    return head + (f" and {len(items) - most:,} more" if len(items) > most else "")
