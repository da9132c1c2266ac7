"""What every input encoder does: it is fitted on training rows, and is saved as JSON with the program.

Rows are encoded once into compact tensors; these become tokens batch by batch on the training device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.notes import Note
from icecore.user_data.records import Records

R = TypeVar("R", bound=Records, contravariant=True)


@dataclass
class EncodedInputs:
    """Encoded inputs of n rows.

    inputs   (n, ...) in the encoder's compact form
    lengths  (n,) tokens of each row; None if all rows have the same number
    rows     (n,) positions of these rows among those to encode: some may be unreadable
    notes    what was filled, cut or skipped
    """

    inputs: Tensor
    lengths: Tensor | None
    rows: np.ndarray
    notes: list[Note]


class InputEncoder(Protocol[R]):
    """Turns records of one form into tokens: at most T positions with P numbers each, or ids out of P symbols."""

    kind: ClassVar[TokenKind]

    @property
    def read_out(self) -> ReadOut:
        """Which hidden states predict: their mean, or the last one, as in programs before version 0.2."""
        ...

    @property
    def length(self) -> int:
        """T: tokens of the longest row."""
        ...

    @property
    def token_size(self) -> int:
        """P: numbers per token, or the size of the vocabulary."""
        ...

    @classmethod
    def fit(cls, records: R, order: np.ndarray, train: int, settings: DataSettings) -> tuple[Self, EncodedInputs]:
        """Fit on the first `train` rows of `order` (N,), and encode all of its rows."""
        ...

    def encode(self, records: R, order: np.ndarray) -> EncodedInputs:
        """Encode the rows `order` (N,) of the records, in that order."""
        ...

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """A function from encoded inputs (N, ...) on the device to tokens (N, T, P) float or (N, T) int64."""
        ...

    def describe(self) -> str:
        """The rows and their tokens in words."""
        ...


def to_tuples(value: Any) -> Any:
    """Lists, as JSON has them, as tuples, at every depth."""
    if isinstance(value, Mapping):
        return {key: to_tuples(item) for key, item in value.items()}
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(to_tuples(item) for item in value) if is_list else value
