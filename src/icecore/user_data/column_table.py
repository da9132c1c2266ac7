"""Tables as columns: how they are read, chunks of their cells, and the result with its targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from icecore.core.text import join_names, pluralize
from icecore.user_data.cell_types import BOOLEAN_WORDS, MISSING_CLASS_WORDS
from icecore.user_data.columns import Column, ColumnType
from icecore.user_data.data_settings import DateOrder, DecimalMark
from icecore.user_data.notes import Note

#: tables with more rows are sampled
DEFAULT_MAX_ROWS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a table is read.

    types           columns of known type; the type of others is inferred from their first chunk
    formats         how numbers and dates of columns of known type are written, unless plainly
    decimal, dates  which mark separates decimals, and whether days or months come first, where the cells do not tell
    keep_all_texts  columns of which every distinct text is kept
    always_numeric  columns that hold numbers even if these have leading zeros
    max_rows        larger tables are sampled down to this number of rows
    seed            seed of the sample
    strict          raise an error for cells and rows that would be counted as missing or skipped
    """

    types: Mapping[str, ColumnType] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    decimal: DecimalMark = "auto"
    dates: DateOrder = "auto"
    keep_all_texts: frozenset[str] = frozenset()
    always_numeric: frozenset[str] = frozenset()
    max_rows: int = DEFAULT_MAX_ROWS
    seed: int = 0
    strict: bool = False


@dataclass
class ColumnTable:
    """The columns of a table by name.

    row_numbers          (N,) number of each row in its files, from 0
    notes                what was inferred, skipped or sampled
    unfiltered           text columns before words such as "none" were taken as missing values, and as they were spelled
    missing_word_counts  how often each such word appears in columns of numbers
    formats              how the numbers and dates of columns are written, unless plainly
    groups               (N,) code of each row's group, if a column names it
    """

    columns: dict[str, Column]
    row_numbers: np.ndarray
    notes: list[Note] = field(default_factory=list)
    unfiltered: Mapping[str, Column] = field(default_factory=dict)
    missing_word_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    groups: np.ndarray | None = None

    def target(self, name: str) -> Column:
        """A column as a target, for which fewer words mean a missing value. Notes the words that were found."""
        column = self.unfiltered.get(name, self.columns[name])
        column, notes = target_column(column, self.missing_word_counts.get(name))
        self.notes += notes
        return column


def target_column(column: Column, word_counts: Mapping[str, int] | None = None) -> tuple[Column, list[Note]]:
    """The column as a target: texts that mean a missing class are removed. Also a note that counts such words.

    `word_counts` counts them for a column of numbers, whose values do not show them.
    """
    if column.type == "text":
        counts = np.bincount(column.values[column.values >= 0], minlength=len(column.distinct_texts))
        word_counts = {
            text: int(count)
            for text, count in zip(column.distinct_texts, counts, strict=False)
            if count and text.strip().lower() in MISSING_CLASS_WORDS
        }
        column = without_words(column, MISSING_CLASS_WORDS)
    parts = [
        f"{pluralize(count, 'row')} where {column.name} is {word!r}" for word, count in (word_counts or {}).items()
    ]
    return column, [("no target", join_names(parts))] if parts else []


def without_words(column: Column, words: frozenset[str]) -> Column:
    """The text column with these words taken as missing values."""
    keep = np.array([text.strip().lower() not in words for text in column.distinct_texts], bool)
    if keep.all():
        return column
    # the last entry maps -1, a missing value, to itself
    new_codes = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1).astype(np.int32)
    levels = [text for text, kept in zip(column.distinct_texts, keep, strict=True) if kept]
    return replace(column, values=new_codes[column.values], levels=levels)


def spell_booleans(column: Column) -> Column:
    """A text column of truth values, however they are spelled, with the texts True and False."""
    words = [text.strip().lower() for text in column.distinct_texts]
    if not words or not set(words) <= BOOLEAN_WORDS.keys():
        return column
    new_codes = np.array([*(int(BOOLEAN_WORDS[word]) for word in words), -1], np.int32)
    return replace(column, values=new_codes[column.values], levels=["False", "True"])


def exact_codes(columns: Mapping[str, Column]) -> tuple[dict[str, Column], list[Note]]:
    """The columns, with whole numbers as texts where float64 would make several of them one; also a note of these."""
    merged = {name: column.as_written for name, column in columns.items() if _merges_integers(column)}
    codes = {name: written for name, written in merged.items() if written is not None}
    if not codes:
        return dict(columns), []
    example = next(iter(codes.values())).distinct_texts[0]
    message = f"{join_names(list(codes))}: read as text because its numbers are too long to be exact, as in {example!r}"
    return {**columns, **codes}, [("codes", message)]


def _merges_integers(column: Column) -> bool:
    written = column.as_written
    if column.type != "number" or written is None or written.origin != "int":
        return False
    numbers = len(np.unique(column.values[~column.is_missing()].astype(np.float64)))
    return len(np.unique(written.values[written.values >= 0])) > numbers


class TableChunk(NamedTuple):
    """Some rows of a file: column names, cells of each column (n,) as texts or numbers, row numbers (n,) from 0."""

    names: Sequence[str]
    cells: Mapping[str, Any]
    row_numbers: np.ndarray
