"""Rows as they were read, before anything is fitted: one class for each form of input.

Every reader returns `Records`, so that encoders and targets need not know about file formats.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from icecore.user_data.array_images import ArrayImages
from icecore.user_data.columns import Column
from icecore.user_data.image_decoding import ImageFiles
from icecore.user_data.notes import Note
from icecore.user_data.sequences import Sequences

#: the forms of input in words, for messages
FORM_DESCRIPTIONS: Mapping[str, str] = {
    "images": "images",
    "table": "rows of a table",
    "sequences": "sequences of numbers",
    "strings": "texts",
}


@dataclass(frozen=True, kw_only=True)
class Records:
    """N rows. The subclasses add their inputs.

    form         name of the form of input, as encoders are saved with it
    targets      columns to predict; empty if the data have none
    names        (N,) name of each row: file name, id or number
    row_numbers  (N,) number of each row in its source, from 0; None if no row was skipped
    splits       (N,) "train", "val", "test", or "" for rows that are split at random; None if all of them are
    groups       (N,) code of the group of each row, if a column names it; a group is never divided among splits
    others       columns (N,) of the data that are neither inputs nor targets
    source       what was read: format and files, and the column or values that were chosen
    notes        what was inferred, dropped, filled or skipped
    """

    form: ClassVar[str]
    targets: Mapping[str, Column]
    names: Sequence[str]
    row_numbers: np.ndarray | None = None
    splits: np.ndarray | None = None
    groups: np.ndarray | None = None
    others: Mapping[str, Column] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[Note] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, kw_only=True)
class ImageRecords(Records):
    """Images, which are not decoded yet."""

    form: ClassVar[str] = "images"
    images: ImageFiles | ArrayImages


@dataclass(frozen=True, kw_only=True)
class TableRecords(Records):
    """Rows of a table: its columns (N,) by name, without the targets."""

    form: ClassVar[str] = "table"
    columns: Mapping[str, Column]


@dataclass(frozen=True, kw_only=True)
class SequenceRecords(Records):
    """Sequences of points of numbers, such as time series."""

    form: ClassVar[str] = "sequences"
    sequences: Sequences


@dataclass(frozen=True, kw_only=True)
class TextRecords(Records):
    """Texts over any alphabet (N,)."""

    form: ClassVar[str] = "strings"
    texts: Sequence[str]


class NumberNames(Sequence[str]):
    """The texts of `numbers` (N,) as a sequence of names, made only when needed to save memory."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        numbers = self.numbers[index]
        return NumberNames(numbers) if isinstance(index, slice) else str(int(numbers))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as a list


def select_names(names: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    """The names of the rows (n,). Those that are numbers are not made yet: texts take ten times the memory."""
    if isinstance(names, NumberNames):
        return NumberNames(names.numbers[rows])
    return [str(names[row]) for row in rows.tolist()]
