"""One column of a table as numbers of a token, fitted on training rows; columns without information are left out."""

import math
from dataclasses import dataclass

import numpy as np

from icecore.user_data.cell_types import are_truth_values, truth_word
from icecore.user_data.columns import Column, ColumnType
from icecore.user_data.row_counters import counts_rows

#: categories of a column that have a slot, the most frequent first
MAX_CATEGORIES = 31
#: distinct texts that are always categories, however few the rows
FEW_CATEGORIES = 10
_SECONDS_PER_DAY = 86_400
_READ_CHARACTERS = "--column reads one column character by character"


@dataclass(frozen=True)
class ColumnEncoder:
    """How one column is encoded: standardised numbers, or one of its categories.

    mean, std  of each stored number: one of a number, four of a date
    levels     the categories, in alphabetical order
    flag       values were missing in training: one more slot is 1 if a value is missing. Categories do not need it
    """

    name: str
    type: ColumnType
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    flag: bool = False

    @property
    def stored(self) -> int:
        """Numbers that are stored per row."""
        return 1 if self.type == "text" else len(self.mean)

    @property
    def slots(self) -> int:
        """Numbers that the column takes of a token."""
        return 1 + len(self.levels) if self.type == "text" else len(self.mean) + self.flag

    def encode_numbers(self, column: Column, rows: np.ndarray) -> np.ndarray:
        """Standardised numbers (n, stored), nan if missing."""
        return (column_numbers(column, rows) - self.mean) / self.std

    def encode_categories(self, column: Column, rows: np.ndarray) -> tuple[np.ndarray, int]:
        """The slot (n,) of each row's category, 0 if it has none or is missing; and how many have none."""
        slot_of = {level: slot for slot, level in enumerate(self.levels, 1)}
        texts = column.distinct_texts
        if are_truth_values(self.levels):
            slot_of = {truth_word(level): slot for level, slot in slot_of.items()}
            texts = list(map(truth_word, texts))
        # a column with too many texts has no list of them, so none of its categories is recognised
        lookup = np.array([*(slot_of.get(text, 0) for text in texts), 0], np.float32)
        codes = column.values[rows]
        slots = lookup[codes]
        return slots, int(((slots == 0) & (codes >= 0)).sum())


def date_parts(seconds: np.ndarray) -> np.ndarray:
    """Seconds since 1970 (N,) as days since 1970, month, weekday (Monday is 0) and second of the day (N, 4)."""
    is_finite = np.isfinite(seconds)
    moments = np.where(is_finite, seconds, 0).astype("datetime64[s]")
    days = moments.astype("datetime64[D]")
    month = moments.astype("datetime64[M]").astype(int) % 12 + 1
    day = days.astype(int)
    second = (moments - days).astype(int)
    parts = np.stack([day + second / _SECONDS_PER_DAY, month, (day + 3) % 7, second], 1).astype(np.float64)
    parts[~is_finite] = math.nan
    return parts


def column_numbers(column: Column, rows: np.ndarray) -> np.ndarray:
    """The numbers of a numeric or date column before they are standardised: (n, 1), or (n, 4) for dates."""
    values = column.values[rows].astype(np.float64)
    values[np.abs(values) > np.finfo(np.float32).max] *= math.inf  # larger ones could not be squared in float64
    return date_parts(values) if column.type == "date" else values[:, None]


def fit_column(
    column: Column, rows: np.ndarray, keep: bool = False, used: np.ndarray | None = None
) -> tuple[ColumnEncoder | None, str]:
    """The encoder of a column, fitted on training `rows` (n,); or None and the reason for leaving the column out.

    keep  a column that counts the rows is used too
    used  all rows that are used, in the order of the file; None: all rows of the column
    """
    if column.type == "text":
        return _fit_categories(column, rows)
    numbers = column_numbers(column, rows)
    is_finite = np.isfinite(numbers[:, 0])
    known = numbers[is_finite]
    if not len(known):
        return None, "no values"
    mean, std = known.mean(0), known.std(0)
    if not (std > 1e-12 * np.abs(mean)).any():
        # a constant that is missing in some rows still has information
        if is_finite.all():
            return None, "constant"
    elif not keep and counts_rows(column if used is None else column.select(used)):
        return None, f"a different {column.type} in every row, so it is an id (--keep takes it)"
    std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)
    flag = not is_finite.all()
    return ColumnEncoder(column.name, column.type, tuple(mean.tolist()), tuple(std.tolist()), (), flag), ""


def _fit_categories(column: Column, rows: np.ndarray) -> tuple[ColumnEncoder | None, str]:
    codes = column.values[rows]
    known = codes[codes >= 0]
    if column.levels is None:
        return None, f"too many different texts ({_READ_CHARACTERS})"
    if not len(known):
        return None, "no values"
    levels = column.distinct_texts
    counts = np.bincount(known, minlength=len(levels))
    distinct = int((counts > 0).sum())
    if distinct == 1 and len(known) == len(codes):
        return None, "constant"
    # ties are ordered by name, so that the order of the rows does not matter
    ranked = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], levels[code]))[:MAX_CATEGORIES]
    mostly_distinct = distinct > max(FEW_CATEGORIES, len(known) / 2)
    if mostly_distinct or (distinct > MAX_CATEGORIES and counts[ranked].sum() < len(known) / 2):
        return None, f"{distinct:,} different texts, too many for categories ({_READ_CHARACTERS})"
    return ColumnEncoder(column.name, "text", levels=tuple(sorted(levels[code] for code in ranked))), ""
