"""How rows become tokens: one code a form of data, fitted on training rows, JSON in and out.

A code turns `Records` into compact tensors once (`encode`), and those into tokens on the training device,
a batch at a time (`tokenizer`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import ConfigError, DataError
from icecore.core.text import pluralize
from icecore.tasks.images import channel_statistics, to_patches
from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.readers.images import CHANNELS, SIDES, ImageFiles
from icecore.user_data.records import DataSettings, RawRows, Sequences, listed

Notes = list[tuple[str, str]]
#: tokens of a row where nothing says otherwise
TOKENS = 256
#: images that statistics are taken from
STATISTICS = 20_000
STEP = 65_536


@dataclass
class Encoded:
    """Rows as stored: inputs (n, ...), lengths (n,) in tokens or None.

    kept  (n,) places, among the rows asked for, of those that could be read
    """

    inputs: Tensor
    lengths: Tensor | None
    kept: np.ndarray
    notes: Notes


class InputEncoder(Protocol):
    """What every code is. T positions at most, P numbers a token or the size of the vocabulary."""

    kind: ClassVar[TokenKind]
    read_out: ClassVar[ReadOut]

    @property
    def length(self) -> int: ...

    @property
    def token_size(self) -> int: ...

    @classmethod
    def fit(cls, records: RawRows, order: np.ndarray, train: int, settings: DataSettings) -> tuple[Self, Encoded]:
        """Fit on the first `train` rows of `order`, and encode all of them."""
        ...

    def encode(self, records: RawRows, order: np.ndarray) -> Encoded:
        """The rows `order` of the records, in that order."""
        ...

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """From stored inputs (N, ...) on the device to tokens (N, T, P) float or (N, T) int64."""
        ...

    def describe(self) -> str:
        """The tokens in words."""
        ...


@dataclass(frozen=True)
class ImageEncoder:
    """Square images as square patches, one a token; each channel standardised by training images."""

    kind: ClassVar[TokenKind] = "continuous"
    read_out: ClassVar[ReadOut] = "last"
    side: int
    channels: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def length(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def token_size(self) -> int:
        return self.patch**2 * self.channels

    @classmethod
    def fit(
        cls, records: RawRows, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["ImageEncoder", Encoded]:
        """Side and colour from a few images, statistics from training ones. 64 patches unless `patch` is set."""
        files: ImageFiles = records.inputs
        short, colour, found = files.sample()
        side = settings.size or next((side for side in SIDES if side >= short), SIDES[-1])
        patch = settings.patch or max(1, side // 8)
        if side % patch:
            raise ConfigError(f"patch: expected a divisor of the image side {side}, found {patch}")
        channels = CHANNELS[colour]
        code = cls(side, channels, patch, (0.0,) * channels, (1.0,) * channels)
        encoded = code.encode(records, order)
        last = int(np.searchsorted(encoded.kept, train))
        if not last:
            raise DataError(f"{files.path}: none of {pluralize(train, 'training image')} can be read")
        mean, std = channel_statistics(encoded.inputs[: min(last, STATISTICS)])
        encoded.notes.insert(0, ("found", found))
        return replace(code, mean=tuple(mean.tolist()), std=tuple(std.clamp_min(1.0).tolist())), encoded

    def encode(self, records: RawRows, order: np.ndarray) -> Encoded:
        """Images as (n, S, S, C) uint8; those that cannot be read are left out and noted."""
        files: ImageFiles = records.inputs
        inputs, kept = files.decode(order, self.side, self.channels)
        notes: Notes = []
        if files.bad:
            bad = [f"{name} ({reason.splitlines()[0][:60]})" for name, reason in files.bad]
            notes = [("skipped", f"{pluralize(len(bad), 'unreadable image')}: {listed(bad, 3)} (--strict refuses)")]
        return Encoded(inputs, None, kept, notes)

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Images (N, S, S, C) uint8 to patches (N, T, P)."""
        mean, std = (torch.tensor(x, device=device) for x in (self.mean, self.std))
        return lambda inputs: to_patches((inputs - mean) / std, self.patch)

    def describe(self) -> str:
        colour = "colour" if self.channels == 3 else "grey"
        return f"images of {self.side} x {self.side} pixels, {colour}, in patches of {self.patch} x {self.patch}"


@dataclass(frozen=True)
class SequenceEncoder:
    """Sequences of points as tokens of `patch` points each; every value standardised over all training points.

    `flags`: missing points were met in training; then each point has a number more that says so.
    """

    kind: ClassVar[TokenKind] = "continuous"
    read_out: ClassVar[ReadOut] = "last"
    points: int
    patch: int
    flags: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def length(self) -> int:
        return math.ceil(self.points / self.patch)

    @property
    def token_size(self) -> int:
        return self.patch * (len(self.mean) + self.flags)

    @classmethod
    def fit(
        cls, records: RawRows, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["SequenceEncoder", Encoded]:
        """As many points as the longest training row has (or `length`), at most 256 tokens unless `patch` is set."""
        held: Sequences = records.inputs
        rows = np.zeros(len(held.lengths), bool)
        rows[order[:train]] = True
        longest = min(int(held.lengths[order[:train]].max()), settings.length or 2**31)
        patch = settings.patch or math.ceil(longest / TOKENS)
        mean, std, whole = _moments(held.points, np.repeat(rows, held.lengths))
        code = cls(longest, patch, not whole, tuple(mean.tolist()), tuple(std.tolist()))
        return code, code.encode(records, order)

    def encode(self, records: RawRows, order: np.ndarray) -> Encoded:
        """Tokens (n, T, P) float32, zero beyond a row's end. Raises DataError for another number of values."""
        held: Sequences = records.inputs
        V = len(self.mean)
        if held.points.shape[1] != V:
            raise DataError(f"sequences: expected {V} values a point, found {held.points.shape[1]}")
        lengths = np.minimum(held.lengths, self.points)
        notes: Notes = []
        if cut := int((held.lengths > self.points).sum()):
            notes.append(("cut", f"{pluralize(cut, 'sequence')} to the first {self.points:,} points (--length)"))
        longest, width = self.length * self.patch, V + self.flags
        grid = np.zeros((len(order), longest, width), np.float32)
        starts = np.cumsum(held.lengths) - held.lengths
        missing = 0
        for first in range(0, len(order), 1024):
            rows = order[first : first + 1024]
            inside = np.arange(longest) < lengths[rows][:, None]
            places = (starts[rows][:, None] + np.arange(longest))[inside]
            values = (held.points[places] - np.array(self.mean)) / np.array(self.std)
            gone = ~np.isfinite(values)
            missing += int(gone.sum())
            values[gone] = 0
            flag = [np.any(gone, 1, keepdims=True)] if self.flags else []
            grid[first : first + 1024][inside] = np.concatenate([values, *flag], 1)
        if missing:
            notes.append(
                ("filled", f"{pluralize(missing, 'missing value')} by the mean{', and flagged' if self.flags else ''}")
            )
        tokens = np.ceil(lengths[order] / self.patch).astype(np.int64)
        ragged = bool((tokens != self.length).any())
        inputs = torch.from_numpy(grid.reshape(len(order), self.length, -1))
        return Encoded(
            inputs, torch.from_numpy(np.maximum(tokens, 1)) if ragged else None, np.arange(len(order)), notes
        )

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Stored as tokens already."""
        return lambda inputs: inputs

    def describe(self) -> str:
        V = len(self.mean)
        each = f"{pluralize(V, 'value')} at up to {pluralize(self.points, 'point')} in time"
        return f"sequences of {each}, {pluralize(self.patch, 'point')} a token"


def _moments(points: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Mean (V,) and deviation (V,) of the chosen points' finite values, and whether all of them are finite."""
    count, total, square = (np.zeros(points.shape[1]) for _ in range(3))
    shift = np.nan_to_num(points[chosen.argmax()], posinf=0, neginf=0).astype(np.float64)
    whole = True
    for first in range(0, len(points), STEP):
        block = points[first : first + STEP][chosen[first : first + STEP]] - shift
        finite = np.isfinite(block)
        whole &= bool(finite.all())
        block[~finite] = 0
        count += finite.sum(0)
        total += block.sum(0)
        square += (block * block).sum(0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean * mean, 0))
    return shift + mean, np.where(std > 1e-12 * np.abs(shift + mean), std, 1.0), whole


def tuples(value: Any) -> Any:
    """Lists, as JSON has them, to tuples, all the way down."""
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(tuples(item) for item in value) if is_list else value
