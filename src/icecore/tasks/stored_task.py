"""StoredTask: a task whose examples are tensors in memory. A subclass says how raw inputs become tokens."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icecore.core.device import to_device
from icecore.core.random_streams import AUGMENT, random_stream
from icecore.tasks.sampling import training_order
from icecore.tasks.task import Batch, Task


@dataclass(frozen=True)
class Examples:
    """One split of stored data, as whole tensors on the training device, in the data type of the source.

    inputs   (N, ...), for example uint8 images
    targets  (N, ...)
    lengths  (N,) numbers of real positions, on the CPU; None if no row is padded
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        counts = [len(part) for part in (self.inputs, self.targets, self.lengths) if part is not None]
        if len(set(counts)) > 1:
            raise ValueError(f"inputs, targets and lengths must have the same number of rows, found {counts}")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "Examples":
        """The same split on `device`."""
        return Examples(self.inputs.to(device), self.targets.to(device), self.lengths)


class StoredTask(Task):
    """A task whose splits are stored as tensors. Subclasses implement `tokens`, and `augment` if they augment."""

    #: number of uniform random numbers that the augmentation of one example needs; 0 means no augmentation
    augment_draws: int = 0

    def __init__(self, splits: Mapping[str, Examples], data: Mapping[str, Any] | None = None) -> None:
        self.splits = dict(splits)
        self.data = dict(data or {})
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> "StoredTask":
        self.splits = {name: part.to(device) for name, part in self.splits.items()}
        self.device = device
        return self

    def split_size(self, split: str) -> int:
        return len(self.splits[split])

    @abstractmethod
    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Raw inputs (N, ...) to tokens (N, T, P) float or (N, T) int64; T is `spec.length` or the longest row."""

    def augment(self, inputs: Tensor, draws: Tensor) -> Tensor:
        """Raw inputs (N, ...) changed at random for training, as `draws` (N, augment_draws), uniform in [0, 1), say."""
        return inputs

    def train_index(self, seeds: Sequence[int], step: int, batch_size: int) -> Tensor | None:
        return None if self.augment_draws else self._training_rows(seeds, step, batch_size)

    def train_batch(self, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        draws = None
        if self.augment_draws:
            shape = (batch_size, self.augment_draws)
            draws = torch.cat([torch.rand(shape, generator=random_stream(seed, AUGMENT, step)) for seed in seeds])
            draws = to_device(draws, self.device)
        return self._collate(self.splits["train"], self._training_rows(seeds, step, batch_size), draws)

    def batches(self, split: str, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        part = self.splits[split]
        size = len(part) if limit is None else min(limit, len(part))
        for first in range(0, size, batch_size):
            yield self._collate(part, slice(first, min(first + batch_size, size)), None)

    def _training_rows(self, seeds: Sequence[int], step: int, batch_size: int) -> Tensor:
        """Indices (N,) within "train" of the examples of one step."""
        size = len(self.splits["train"])
        return torch.cat([training_order(size, seed, step, batch_size) for seed in seeds])

    def _collate(self, part: Examples, index: Tensor | slice, draws: Tensor | None) -> Batch:
        device_index = index if isinstance(index, slice) else to_device(index, self.device)
        inputs = part.inputs[device_index]
        lengths = None if part.lengths is None else part.lengths[index]
        if lengths is not None:
            # Positions that no row of the batch uses would only cost time.
            inputs = inputs[:, : int(lengths.max())]
        if draws is not None:
            inputs = self.augment(inputs, draws)
        return Batch(self.tokens(inputs, lengths), part.targets[device_index], lengths)
