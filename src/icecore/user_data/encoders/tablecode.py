"""Tables as tokens: one token a column, as FT-Transformer does it (Gorishniy et al. 2021, Section 3.3).

A column's numbers stand in slots of their own within P, so that the trained input layer holds a vector for
each number and each category; the trained position is the column's bias. What is stored is compact, K
numbers a row; slots are filled on the training device.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import DataError
from icecore.core.text import pluralize
from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.encoders.codes import Encoded, Notes
from icecore.user_data.records import Column, ColumnType, DataSettings, RawRows, listed

#: tokens of a row; where there are more columns, each token has several
TOKENS = 64
#: numbers of a row's tokens up to which columns have slots of their own
WIDEST = 32_768
#: categories of a column that have a slot, the most frequent first
CATEGORIES = 31
#: distinct texts that are categories however few the rows
FEW = 10
#: standard deviations beyond which a number counts as that many
FARTHEST = 10.0
_ID = re.compile(r"(.*[ _-])?(id|uuid|index|key|row|nr|no)|unnamed.*|column1|", re.IGNORECASE)
SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class ColumnEncoder:
    """One column: mean and standard deviation of its stored numbers, or its categories.

    `flag`: values were missing in training; then a slot says so (categories have one for the unknown anyway).
    """

    name: str
    type: ColumnType
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    flag: bool = False

    @property
    def stored(self) -> int:
        """Numbers stored a row."""
        return 1 if self.type == "text" else len(self.mean)

    @property
    def slots(self) -> int:
        """Numbers within a token."""
        return 1 + len(self.levels) if self.type == "text" else len(self.mean) + self.flag


def date_parts(seconds: np.ndarray) -> np.ndarray:
    """Seconds since 1970 (N,) as days since then, month, weekday (Monday 0) and second of the day (N, 4)."""
    finite = np.isfinite(seconds)
    moments = np.where(finite, seconds, 0).astype("datetime64[s]")
    days = moments.astype("datetime64[D]")
    month = moments.astype("datetime64[M]").astype(int) % 12 + 1
    whole = days.astype(int)
    second = (moments - days).astype(int)
    parts = np.stack([whole + second / SECONDS_A_DAY, month, (whole + 3) % 7, second], 1).astype(np.float64)
    parts[~finite] = math.nan
    return parts


def _numbers(column: Column, rows: np.ndarray) -> np.ndarray:
    """The numbers (n, 1) or (n, 4) that a number or date is stored as, before they are standardised."""
    values = column.values[rows].astype(np.float64)
    values[np.abs(values) > np.finfo(np.float32).max] *= math.inf  # its square would not fit float64 either
    return date_parts(values) if column.type == "date" else values[:, None]


@dataclass(frozen=True)
class TableEncoder:
    """Columns as tokens: numbers and dates standardised, categories as one of their slots.

    patch  columns a token
    """

    kind: ClassVar[TokenKind] = "continuous"
    read_out: ClassVar[ReadOut] = "last"
    columns: tuple[ColumnEncoder, ...]
    patch: int

    def __post_init__(self) -> None:
        # JSON has dictionaries
        held = tuple(c if isinstance(c, ColumnEncoder) else ColumnEncoder(**c) for c in self.columns)
        object.__setattr__(self, "columns", held)

    @property
    def length(self) -> int:
        return math.ceil(len(self.columns) / self.patch)

    @property
    def token_size(self) -> int:
        return self._layout[0]

    @cached_property
    def _layout(self) -> tuple[int, list[int]]:
        """P, and where each column's slots start in a row's T * P numbers."""
        tokens = [place // self.patch for place in range(len(self.columns))]
        P = sum(c.slots for c in self.columns)
        shared = P * self.length > WIDEST
        offsets: list[int] = []
        used = 0
        for place, column in enumerate(self.columns):
            if shared and place % self.patch == 0:
                used = 0
            offsets.append(used)
            used += column.slots
        if shared:
            P = max(offset + column.slots for offset, column in zip(offsets, self.columns, strict=True))
        return P, [token * P + offset for token, offset in zip(tokens, offsets, strict=True)]

    @classmethod
    def fit(
        cls, records: RawRows, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["TableEncoder", Encoded]:
        """Leave out what says nothing (constants, ids, free text) and fit the rest on training rows."""
        rows = order[:train]
        columns: list[ColumnEncoder] = []
        left: dict[str, list[str]] = {}
        for column in records.inputs.values():
            code, why = _fit_column(column, rows)
            if code is None:
                left.setdefault(why, []).append(column.name)
            else:
                columns.append(code)
        notes: Notes = [("dropped", f"{listed(names)}: {why}") for why, names in left.items()]
        if not columns:
            said = "; ".join(text for _, text in notes)
            raise DataError(f"no column is left to learn from ({said}); name a text column with --column to read it")
        code = cls(tuple(columns), settings.patch or math.ceil(len(columns) / TOKENS))
        encoded = code.encode(records, order)
        encoded.notes[:0] = notes
        return code, encoded

    def encode(self, records: RawRows, order: np.ndarray) -> Encoded:
        """Stored numbers (n, K) float32: nan where missing, a category's slot. Raises DataError for lacking columns."""
        held: dict[str, Column] = records.inputs
        if absent := [code.name for code in self.columns if code.name not in held]:
            raise DataError(
                f"the table lacks {pluralize(len(absent), 'column')} seen in training: {listed(absent)}; "
                f"add {'it' if len(absent) == 1 else 'them'} to {listed(list(held))}"
            )
        inputs = np.empty((len(order), sum(code.stored for code in self.columns)), np.float32)
        notes: Notes = []
        missing: dict[bool, list[str]] = {True: [], False: []}
        first = 0
        for code in self.columns:
            column = held[code.name]
            if (column.type == "text") != (code.type == "text"):
                raise DataError(f"column {code.name!r}: expected a {code.type} as in training, found a {column.type}")
            block = inputs[:, first : first + code.stored]
            if code.type == "text":
                block[:, 0], strange = _places(column, code, order)
                if strange:
                    notes.append(
                        ("rare", f"{pluralize(strange, 'cell')} of {code.name!r} without a slot for the category")
                    )
            else:
                block[:] = (_numbers(column, order) - code.mean) / code.std
                if count := int(np.isnan(block[:, 0]).sum()):
                    missing[code.flag].append(f"{code.name} ({count:,})")
            first += code.stored
        if missing[True]:
            notes.append(("filled", f"missing numbers by the mean, and flagged: {listed(missing[True])}"))
        if missing[False]:
            why = "not flagged, as none were missing in training"
            notes.append(("filled", f"missing numbers by the mean, {why}: {listed(missing[False])}"))
        return Encoded(torch.from_numpy(inputs), None, np.arange(len(order)), notes)

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Stored numbers (N, K) to tokens (N, T, P), one column's slots in each but for `patch`."""
        P, starts = self._layout
        T = self.length
        source: dict[str, list[int]] = {"number": [], "flag": [], "text": []}
        target: dict[str, list[int]] = {"number": [], "flag": [], "text": []}
        first = 0
        for code, start in zip(self.columns, starts, strict=True):
            kind = "text" if code.type == "text" else "number"
            source[kind] += range(first, first + code.stored)
            target[kind] += range(start, start + code.stored)
            if code.type != "text" and code.flag:
                source["flag"].append(first)
                target["flag"].append(start + code.stored)
            first += code.stored
        take, put = (
            {kind: torch.tensor(places, dtype=torch.int64, device=device) for kind, places in table.items()}
            for table in (source, target)
        )

        def tokens(inputs: Tensor) -> Tensor:
            N = len(inputs)
            row = inputs.new_zeros(N, T * P)
            numbers = inputs[:, take["number"]].nan_to_num(0.0, FARTHEST, -FARTHEST)
            row[:, put["number"]] = numbers.clamp(-FARTHEST, FARTHEST)
            row[:, put["flag"]] = inputs[:, take["flag"]].isnan().to(row.dtype)
            row.scatter_(1, put["text"] + inputs[:, take["text"]].long(), 1.0)
            return row.view(N, T, P)

        return tokens

    def describe(self) -> str:
        count = {kind: sum(c.type == kind for c in self.columns) for kind in ("number", "text", "date")}
        words = {"number": "numeric", "text": "categorical", "date": "dates"}
        kinds = ", ".join(f"{n} {words[kind]}" for kind, n in count.items() if n)
        return f"{pluralize(len(self.columns), 'column')} ({kinds}), {self.patch} a token"


def _fit_column(column: Column, rows: np.ndarray) -> tuple[ColumnEncoder | None, str]:
    """The column's code, or None and why it is left out."""
    if column.type == "text":
        return _fit_text(column, rows)
    numbers = _numbers(column, rows)
    finite = np.isfinite(numbers[:, 0])
    known = numbers[finite]
    if not len(known):
        return None, "no values"
    mean, std = known.mean(0), known.std(0)
    if not (std > 1e-12 * np.abs(mean)).any():
        if finite.all() or not finite.any():
            return None, "constant"
    elif column.type == "number" and _ID.fullmatch(column.name) and _counts(known[:, 0]):
        return None, "another number in every row (an id)"
    std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)
    return ColumnEncoder(column.name, column.type, tuple(mean.tolist()), tuple(std.tolist()), (), not finite.all()), ""


def _counts(values: np.ndarray) -> bool:
    return not (values % 1).any() and len(np.unique(values)) == len(values)


def _fit_text(column: Column, rows: np.ndarray) -> tuple[ColumnEncoder | None, str]:
    codes = column.values[rows]
    known = codes[codes >= 0]
    if column.levels is None:
        return None, "too many different texts (--column reads one column's characters)"
    if not len(known):
        return None, "no values"
    levels = column.texts
    counts = np.bincount(known, minlength=len(levels))
    distinct = int((counts > 0).sum())
    if distinct == 1 and len(known) == len(codes):
        return None, "constant"
    # most frequent first, by name where equal: the order of rows must not matter
    ranked = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], levels[code]))[:CATEGORIES]
    unlike = distinct > max(FEW, len(known) / 2)
    if unlike or (distinct > CATEGORIES and counts[ranked].sum() < len(known) / 2):
        return None, f"texts rather than categories, {distinct:,} of them (--column reads one column's characters)"
    return ColumnEncoder(column.name, "text", levels=tuple(sorted(levels[code] for code in ranked))), ""


def _places(column: Column, code: ColumnEncoder, order: np.ndarray) -> tuple[np.ndarray, int]:
    """The slot (n,) of each row's category, 0 where it has none or is missing; and how many have none."""
    index = {level: place for place, level in enumerate(code.levels, 1)}
    # None: more levels than were kept, so none that is known can be told
    lookup = np.array([*(index.get(level, 0) for level in column.texts), 0], np.float32)
    codes = column.values[order]
    places = lookup[codes]
    return places, int(((places == 0) & (codes >= 0)).sum())
