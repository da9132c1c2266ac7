"""Which examples of a stored split are used when: the order of training examples, and held-out validation rows."""

from functools import lru_cache

import torch
from torch import Tensor

from icecore.core.random_streams import ORDER, SPLIT, random_stream


def training_order(size: int, seed: int, step: int, batch_size: int) -> Tensor:
    """Indices (B,) of the examples of training step `step` among `size` examples.

    Each epoch is a new permutation of all examples, and one epoch follows another without end. The result depends on
    the arguments only, so that a run can resume at any step.
    """
    first = step * batch_size
    parts: list[Tensor] = []
    while batch_size > 0:
        epoch, offset = divmod(first, size)
        part = _epoch_order(size, seed, epoch)[offset : offset + batch_size]
        parts.append(part)
        first += len(part)
        batch_size -= len(part)
    return torch.cat(parts)


@lru_cache(maxsize=256)
def _epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=random_stream(seed, ORDER, epoch))


def split_held_out(size: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split `range(size)` at random into sorted indices (remaining, held out), with `share` of them held out."""
    order = torch.randperm(size, generator=random_stream(seed, SPLIT))
    count = max(1, round(size * share))
    return order[count:].sort().values, order[:count].sort().values
