"""Sequences of numbers, such as time series, as tokens: one or several points per token."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import DataError
from icecore.core.text import pluralize
from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoders.input_encoder import EncodedInputs
from icecore.user_data.notes import Note, name_rows
from icecore.user_data.records import SequenceRecords

#: longer sequences get several points per token, unless `patch` is set
MAX_SEQUENCE_TOKENS = 256
#: points that are processed at once, so that memory stays small
POINTS_PER_BLOCK = 65_536
#: sequences that are encoded at once
SEQUENCES_PER_BLOCK = 1024


@dataclass(frozen=True)
class SequenceEncoder:
    """Sequences as tokens of `patch` points each.

    points     longest sequence; the rest of a longer one is cut off
    flags      values were missing in training: each point has one more number, 1 if any of its values is missing
    mean, std  (V,) of each value, over all points of the training rows
    read_out   which hidden states predict
    """

    kind: ClassVar[TokenKind] = "continuous"
    points: int
    patch: int
    flags: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read_out: ReadOut = "last"

    @property
    def length(self) -> int:
        """T: tokens of the longest sequence."""
        return math.ceil(self.points / self.patch)

    @property
    def token_size(self) -> int:
        """P: numbers of the points of a token."""
        return self.patch * (len(self.mean) + self.flags)

    @classmethod
    def fit(
        cls, records: SequenceRecords, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["SequenceEncoder", EncodedInputs]:
        """As many points as the longest training row has, or `length`; at most 256 tokens unless `patch` is set."""
        sequences = records.sequences
        is_training = np.zeros(len(sequences), bool)
        is_training[order[:train]] = True
        longest = min(int(sequences.lengths[order[:train]].max()), settings.length or 2**31)
        patch = settings.patch or math.ceil(longest / MAX_SEQUENCE_TOKENS)
        mean, std, complete = _point_statistics(sequences.points, np.repeat(is_training, sequences.lengths))
        encoder = cls(longest, patch, not complete, tuple(mean.tolist()), tuple(std.tolist()), "mean")
        if encoder.length == 1 and longest * len(encoder.mean) > 1:
            values = f"{pluralize(longest, 'point')} in time with {pluralize(len(encoder.mean), 'value')}"
            raise DataError(
                f"Each series would be a single token of {values}, in which nothing can attend to anything. Name the "
                "axis of time with --axes time-last, set a smaller --patch, or use --kind table for rows of columns."
            )
        return encoder, encoder.encode(records, order)

    def encode(self, records: SequenceRecords, order: np.ndarray) -> EncodedInputs:
        """Tokens (n, T, P) float32, zero beyond a row's end. Raises DataError if V is not that of training."""
        sequences = records.sequences
        V = len(self.mean)
        if sequences.points.shape[1] != V:
            raise DataError(
                f"The sequences must have {V} values per point, as in training, but have {sequences.points.shape[1]}."
            )
        lengths = np.minimum(sequences.lengths, self.points)
        notes: list[Note] = []
        if cut := int((sequences.lengths > self.points).sum()):
            notes.append(("cut", f"{pluralize(cut, 'sequence')} after the first {self.points:,} points (--length)"))
        T, width = self.length * self.patch, V + self.flags
        grid = np.zeros((len(order), T, width), np.float32)
        starts = np.cumsum(sequences.lengths) - sequences.lengths
        missing = infinite = 0
        for first in range(0, len(order), SEQUENCES_PER_BLOCK):
            rows = order[first : first + SEQUENCES_PER_BLOCK]
            is_real = np.arange(T) < lengths[rows][:, None]
            indices = (starts[rows][:, None] + np.arange(T))[is_real]
            values = (sequences.points[indices] - np.array(self.mean)) / np.array(self.std)
            infinite += int(np.isinf(values).sum())
            is_missing = ~np.isfinite(values)
            missing += int(is_missing.sum())
            values[is_missing] = 0
            flag = [np.any(is_missing, 1, keepdims=True)] if self.flags else []
            grid[first : first + SEQUENCES_PER_BLOCK][is_real] = np.concatenate([values, *flag], 1)
        known = np.concatenate([[0], np.cumsum(np.isfinite(sequences.points).any(1))])
        counts = known[starts + sequences.lengths] - known[starts]
        if empty := np.sort(order[counts[order] == 0]).tolist():
            notes.append(("empty", f"no values in {name_rows(records.names, empty)}"))
        if infinite:
            notes.append(("infinite", f"{pluralize(infinite, 'value')}: counted as missing"))
        if missing:
            message = f"{pluralize(missing, 'missing value')} with the mean{', and flagged' if self.flags else ''}"
            notes.append(("filled", message))
        tokens = np.ceil(lengths[order] / self.patch).astype(np.int64)
        is_ragged = bool((tokens != self.length).any())
        inputs = torch.from_numpy(grid.reshape(len(order), self.length, -1))
        token_lengths = torch.from_numpy(np.maximum(tokens, 1)) if is_ragged else None
        return EncodedInputs(inputs, token_lengths, np.arange(len(order)), notes)

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Encoded inputs are tokens already."""
        return lambda inputs: inputs

    def describe(self) -> str:
        """Values, points and points per token."""
        each = f"{pluralize(len(self.mean), 'value')} at up to {pluralize(self.points, 'point')} in time"
        return f"sequences of {each}, {pluralize(self.patch, 'point')} per token"


def _point_statistics(points: np.ndarray, is_training: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Mean (V,) and standard deviation (V,) of the training points' finite values, and whether all are finite."""
    count, total, square = (np.zeros(points.shape[1]) for _ in range(3))
    # subtracting any training point keeps the sum of squares precise
    shift = np.nan_to_num(points[is_training.argmax()], posinf=0, neginf=0).astype(np.float64)
    complete = True
    for first in range(0, len(points), POINTS_PER_BLOCK):
        block = points[first : first + POINTS_PER_BLOCK][is_training[first : first + POINTS_PER_BLOCK]] - shift
        is_finite = np.isfinite(block)
        complete &= bool(is_finite.all())
        block[~is_finite] = 0
        count += is_finite.sum(0)
        total += block.sum(0)
        square += (block * block).sum(0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean * mean, 0))
    return shift + mean, np.where(std > 1e-12 * np.abs(shift + mean), std, 1.0), complete
