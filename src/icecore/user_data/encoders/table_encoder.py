"""Rows of a table as tokens: one token per column, as in FT-Transformer (Gorishniy et al. 2021, Section 3.3).

Each column's numbers have their own slots among the P of a token, so the trained input layer holds one vector for
each number and each category. Rows are stored with K numbers; the slots are filled on the training device.
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
from icecore.core.text import join_names, pluralize
from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.columns import Column
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoders.column_encoder import ColumnEncoder, fit_column
from icecore.user_data.encoders.input_encoder import EncodedInputs
from icecore.user_data.notes import Note, name_rows
from icecore.user_data.records import TableRecords
from icecore.user_data.row_counters import counts_rows

#: tables with more columns get several columns per token, unless `patch` is set
MAX_TABLE_TOKENS = 64
#: the most numbers in the tokens of a row with which each column still has its own slots
MAX_NUMBERS_PER_ROW = 32_768
#: standardised numbers are clipped to this many standard deviations
MAX_DEVIATIONS = 10.0


#: unknown categories that are a mistake if there is no known one; a single one may just be new
MIN_UNKNOWN_CELLS = 2


@dataclass(frozen=True)
class TableEncoder:
    """Columns as tokens: standardised numbers and dates, categories as one of their slots.

    patch     columns per token
    read_out  which hidden states predict
    """

    kind: ClassVar[TokenKind] = "continuous"
    columns: tuple[ColumnEncoder, ...]
    patch: int
    read_out: ReadOut = "last"

    def __post_init__(self) -> None:
        # the columns are dictionaries when they come from JSON
        columns = tuple(c if isinstance(c, ColumnEncoder) else ColumnEncoder(**c) for c in self.columns)
        object.__setattr__(self, "columns", columns)

    @property
    def length(self) -> int:
        """T: tokens of a row."""
        return math.ceil(len(self.columns) / self.patch)

    @property
    def token_size(self) -> int:
        """P: slots of a token."""
        return self._layout[0]

    @cached_property
    def _layout(self) -> tuple[int, list[int]]:
        """P, and for each column the index of its first slot among a row's T * P numbers."""
        token_of_column = [index // self.patch for index in range(len(self.columns))]
        P = sum(c.slots for c in self.columns)
        is_shared = P * self.length > MAX_NUMBERS_PER_ROW
        offsets: list[int] = []
        used = 0
        for index, column in enumerate(self.columns):
            if is_shared and index % self.patch == 0:
                used = 0
            offsets.append(used)
            used += column.slots
        if is_shared:
            P = max(offset + column.slots for offset, column in zip(offsets, self.columns, strict=True))
        return P, [token * P + offset for token, offset in zip(token_of_column, offsets, strict=True)]

    @classmethod
    def fit(
        cls, records: TableRecords, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["TableEncoder", EncodedInputs]:
        """Fit each column on the training rows; constants, ids and free text are left out.

        Raises DataError if no column is left.
        """
        columns: list[ColumnEncoder] = []
        left_out: dict[str, list[str]] = {}
        for column in records.columns.values():
            # the columns of an array have no names of their own, and were chosen by the caller
            is_numbered = settings.kind == "array" and re.fullmatch(r"x\d+", column.name)
            keep = column.name in settings.keep or bool(is_numbered)
            encoder, reason = fit_column(column, order[:train], keep, np.sort(order))
            if encoder is None:
                left_out.setdefault(reason, []).append(column.name)
            else:
                columns.append(encoder)
        notes: list[Note] = [("dropped", f"{join_names(names)}: {reason}") for reason, names in left_out.items()]
        numbered = [c for c in records.columns.values() if settings.kind == "array" and c.name not in settings.keep]
        if counters := [column.name for column in numbered if counts_rows(column.select(np.sort(order)))]:
            message = f"{join_names(counters)}: a different number in every row. If it is an id, --drop it"
            notes.append(("counters", message))
        if not columns:
            reasons = "; ".join(message for _, message in notes)
            raise DataError(
                f"No column is left to learn from ({reasons}). To learn from the characters of a text column, "
                "name it with --column."
            )
        encoder = cls(tuple(columns), settings.patch or math.ceil(len(columns) / MAX_TABLE_TOKENS), "mean")
        encoded = encoder.encode(records, order)
        encoded.notes[:0] = notes
        return encoder, encoded

    def encode(self, records: TableRecords, order: np.ndarray) -> EncodedInputs:
        """Numbers (n, K) float32, nan if missing; for categories their slot.

        Raises DataError if a column of the training table is missing or has another type.
        """
        self._check_columns(records)
        inputs = np.empty((len(order), sum(encoder.stored for encoder in self.columns)), np.float32)
        notes: list[Note] = []
        filled: dict[bool, list[str]] = {True: [], False: []}
        infinite: list[str] = []
        is_empty = np.ones(len(order), bool)
        first = 0
        for encoder in self.columns:
            column = records.columns[encoder.name]
            block = inputs[:, first : first + encoder.stored]
            is_empty &= (column.values < 0 if column.type == "text" else np.isnan(column.values))[order]
            if encoder.type == "text":
                block[:, 0], unknown = encoder.encode_categories(column, order)
                missing = column.is_missing()[order]
                if missing.any():
                    where = name_rows(records.names, np.sort(order[missing]).tolist())
                    notes.append(("missing", f"no category of {encoder.name!r} in {where}"))
                if unknown:
                    self._check_known(encoder, column, order, unknown)
                    message = f"{pluralize(unknown, 'cell')} of {encoder.name!r} with a category that has no slot"
                    notes.append(("rare", message))
            else:
                if column.unreadable and not np.isfinite(column.values).any():
                    raise DataError(
                        f"column {encoder.name!r}: none of its {column.unreadable:,} cells is a {encoder.type} as in "
                        "training. Write them as there, or leave the cells empty to predict without them."
                    )
                if count := int(np.isinf(column.values[order]).sum()):
                    infinite.append(f"{pluralize(count, 'cell')} of {encoder.name!r}")
                block[:] = encoder.encode_numbers(column, order)
                if count := int(np.isnan(block[:, 0]).sum()):
                    filled[encoder.flag].append(f"{encoder.name} ({count:,})")
            first += encoder.stored
        if is_empty.any():
            notes.append(("empty", f"no values in {name_rows(records.names, np.sort(order[is_empty]).tolist())}"))
        if infinite:
            notes.append(("infinite", f"{join_names(infinite)}: counted as very large or very small"))
        if filled[True]:
            notes.append(("filled", f"missing numbers with the mean, and flagged: {join_names(filled[True])}"))
        if filled[False]:
            reason = "not flagged, because none were missing in training"
            notes.append(("filled", f"missing numbers with the mean, {reason}: {join_names(filled[False])}"))
        return EncodedInputs(torch.from_numpy(inputs), None, np.arange(len(order)), notes)

    @staticmethod
    def _check_known(encoder: ColumnEncoder, column: Column, order: np.ndarray, unknown: int) -> None:
        """Raise DataError if the rows `order` have a category, but all of them are new."""
        codes = column.values[order]
        codes = codes[codes >= 0]
        if unknown < len(codes) or unknown < MIN_UNKNOWN_CELLS:
            return
        examples = (
            [repr(column.distinct_texts[code]) for code in dict.fromkeys(codes.tolist())] if column.levels else []
        )
        raise DataError(
            f"column {encoder.name!r}: none of its {unknown:,} values was in training, for example "
            f"{join_names(examples, 3) or 'texts of which there are too many'}. Training had: "
            f"{join_names(encoder.levels, 5)}. Spell them as there, or leave the cells empty to predict without them."
        )

    def _check_columns(self, records: TableRecords) -> None:
        if absent := [encoder.name for encoder in self.columns if encoder.name not in records.columns]:
            raise DataError(
                f"The table lacks {pluralize(len(absent), 'column')} of the training data: {join_names(absent)}. "
                f"Add {'it' if len(absent) == 1 else 'them'}. The table has: {join_names(list(records.columns))}."
            )
        for encoder in self.columns:
            column = records.columns[encoder.name]
            if (column.type == "text") != (encoder.type == "text"):
                raise DataError(
                    f"Column {encoder.name!r} must hold {encoder.type}s, as in training, but holds {column.type}s."
                )

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """From stored numbers (N, K) to tokens (N, T, P), with the slots of `patch` columns in each."""
        P, starts = self._layout
        T = self.length
        stored_at: dict[str, list[int]] = {"number": [], "flag": [], "text": []}
        slots_at: dict[str, list[int]] = {"number": [], "flag": [], "text": []}
        first = 0
        for encoder, start in zip(self.columns, starts, strict=True):
            kind = "text" if encoder.type == "text" else "number"
            stored_at[kind] += range(first, first + encoder.stored)
            slots_at[kind] += range(start, start + encoder.stored)
            if encoder.type != "text" and encoder.flag:
                stored_at["flag"].append(first)
                slots_at["flag"].append(start + encoder.stored)
            first += encoder.stored
        stored, slots = (
            {kind: torch.tensor(indices, dtype=torch.int64, device=device) for kind, indices in table.items()}
            for table in (stored_at, slots_at)
        )

        def to_tokens(inputs: Tensor) -> Tensor:
            N = len(inputs)
            row = inputs.new_zeros(N, T * P)
            numbers = inputs[:, stored["number"]].nan_to_num(0.0, MAX_DEVIATIONS, -MAX_DEVIATIONS)
            row[:, slots["number"]] = numbers.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
            row[:, slots["flag"]] = inputs[:, stored["flag"]].isnan().to(row.dtype)
            row.scatter_(1, slots["text"] + inputs[:, stored["text"]].long(), 1.0)
            return row.view(N, T, P)

        return to_tokens

    def describe(self) -> str:
        """Columns of each type, and columns per token."""
        counts = {kind: sum(c.type == kind for c in self.columns) for kind in ("number", "text", "date")}
        words = {"number": "numeric", "text": "categorical", "date": "date"}
        kinds = ", ".join(f"{count} {words[kind]}" for kind, count in counts.items() if count)
        return f"{pluralize(len(self.columns), 'column')} ({kinds}), {self.patch} per token"
