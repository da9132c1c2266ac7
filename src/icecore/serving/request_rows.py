"""The rows of a request after they were read: encoded rows, and what is wrong with the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from icecore.user_data import EncodedRows
from icecore.user_data.notes import Note


@dataclass(frozen=True)
class RowProblem:
    """What is wrong with one row of a request, counted from 0; `column` is None if it concerns the whole row."""

    row: int
    message: str
    column: str | None = None

    def sentence(self) -> str:
        """The problem with its place."""
        place = f"Row {self.row}" if self.column is None else f"Row {self.row}, column {self.column!r}"
        return f"{place}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """The problem as an answer has it."""
        return {"row": self.row, "column": self.column, "message": self.message}


@dataclass(frozen=True)
class RequestRows:
    """The n rows of a request that can be predicted, out of `total`.

    inputs    (n, ...) in the compact form of the program's encoder
    lengths   (n,) tokens of each row; None if all rows have the same number
    places    (n,) number of each row in the request
    names     (n,) file name, id or number of each row
    problems  what is wrong with the other rows
    notes     what was filled, cut or skipped
    targets   (n, 2, k) if the data have them
    encoded   the series and windows of a forecast, whose rows are its windows
    """

    inputs: Tensor
    lengths: Tensor | None
    places: np.ndarray
    names: Sequence[str]
    total: int
    problems: Sequence[RowProblem] = ()
    notes: Sequence[Note] = field(default_factory=list)
    targets: Tensor | None = None
    encoded: EncodedRows | None = None

    def __len__(self) -> int:
        return len(self.inputs)
