"""How the cells of a column of numbers are written, because they may turn out to be labels."""

from collections.abc import Sequence

import numpy as np

from icecore.user_data.cell_types import is_missing_word
from icecore.user_data.columns import LARGEST_EXACT, Column

#: distinct cells up to which a column of numbers also keeps how they were written, because they may be labels
MAX_DISTINCT_NUMBERS = 10_000


class TextCodes:
    """Numbers the distinct texts of one column, in order of appearance."""

    def __init__(self, most: float) -> None:
        self.index: dict[str, int] = {}
        self.most = most

    def encode(self, cells: Sequence[str | None]) -> np.ndarray:
        """Code (n,) int32 of each text, -1 if missing; all are -1 once there are too many distinct texts."""
        index = self.index
        if len(index) > self.most:
            return np.full(len(cells), -1, np.int32)
        codes: dict[str | None, int] = {}
        for cell in dict.fromkeys(cells):
            # "none" stays a text until it is known whether the column is a target
            if cell is None or not cell.strip():
                codes[cell] = -1
            else:
                codes[cell] = index.setdefault(cell, len(index))
        return np.fromiter(map(codes.__getitem__, cells), np.int32, len(cells))


class WrittenCells:
    """The cells of one column of numbers as texts, chunk by chunk, while there are few different ones."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self._codes = TextCodes(MAX_DISTINCT_NUMBERS)
        self._is_kept = True

    def add_texts(self, cells: Sequence[str | None], values: np.ndarray) -> None:
        """Add the cells (n,) from which the numbers `values` (n,) were read."""
        if not self._is_kept:
            return
        is_gone = np.isnan(values)
        if is_gone.any():  # a cell that is no number may be a label, but one that means a missing value is none
            cells = [
                None if gone and (cell is None or is_missing_word(cell)) else cell
                for cell, gone in zip(cells, is_gone, strict=True)
            ]
        self._add([None if cell is None else cell.strip() for cell in cells])

    def add_integers(self, integers: np.ndarray) -> None:
        """Add whole numbers (n,) of an array; they are kept if float64 would round one of the first ones."""
        present = integers.compressed() if isinstance(integers, np.ma.MaskedArray) else integers
        if not self.parts and self._is_kept and len(present):
            self._is_kept = max(abs(int(present.min())), abs(int(present.max()))) > LARGEST_EXACT
        if self._is_kept:
            self._add([None if value is None else str(value) for value in integers.tolist()])

    def _add(self, cells: Sequence[str | None]) -> None:
        self.parts.append(self._codes.encode(cells))
        if len(self._codes.index) > self._codes.most:
            self._is_kept, self.parts = False, []

    def column(self, numbers: Column) -> Column | None:
        """The cells as a text column; None if there were too many, or if the numbers give them back."""
        if not self.parts or numbers.type != "number":
            return None
        values, levels = np.concatenate(self.parts), list(self._codes.index)
        labels = numbers.as_labels()
        first_rows = np.unique(values, return_index=True)
        texts = [*labels.distinct_texts, ""]
        if all(code < 0 or texts[labels.values[row]] == levels[code] for code, row in zip(*first_rows, strict=True)):
            return None
        is_whole = all(level.lstrip("-").isdecimal() and str(int(level)) == level for level in levels)
        if is_whole:  # in ascending order, as labels of numbers are
            ranks = np.argsort(np.argsort([int(level) for level in levels], kind="stable"), kind="stable")
            values, levels = np.append(ranks, -1).astype(np.int32)[values], sorted(levels, key=int)
        return Column(numbers.name, "text", values, levels, "int" if is_whole else "str")
