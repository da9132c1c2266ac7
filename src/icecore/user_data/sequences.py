"""Sequences of any lengths in one array, one after another."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import join_names


@dataclass(frozen=True)
class Sequences:
    """N sequences of points with V values each.

    points   (sum of lengths, V) float32
    lengths  (N,) points of each sequence
    """

    points: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def from_rows(cls, rows: Any) -> "Sequences":
        """From an array (N, T) or (N, T, V), or a list of arrays (T,) or (T, V) of any lengths. Raises DataError."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind != "O" and rows.ndim in (2, 3):
            N, T, V = rows.shape if rows.ndim == 3 else (*rows.shape, 1)
            if not T * V:
                raise DataError(f"The sequences have no values: their shape is {rows.shape}.")
            with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and counts as missing
                return cls(np.asarray(rows, np.float32).reshape(-1, V), np.full(N, T))
        try:
            with np.errstate(over="ignore"):
                parts = [np.asarray(row, np.float32) for row in rows]
        except (TypeError, ValueError) as error:
            raise DataError(f"The sequences must hold numbers only ({error}).") from None
        if not parts:
            raise DataError("The inputs are empty. Provide at least one row.")
        parts = [part[:, None] if part.ndim == 1 else part for part in parts]
        if not any(part.size for part in parts):
            raise DataError("The sequences have no values. Provide sequences of at least one point.")
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            shown = join_names([str(part.shape) for part in parts], 4)
            raise DataError(
                f"The sequences must be arrays (T,) or (T, V) with one V for all; their shapes are {shown}."
            )
        return cls(np.concatenate(parts), np.array([len(part) for part in parts]))
