"""Dropout whose masks are a pure function of the run's seed, the step, the row, the place in the body, and the element.

So draws do not depend on packing, micro-batches, device or history, and a resumed run draws as an unbroken one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: side of the grid on which attention scores are numbered; longer rows would repeat draws
GRID = 4096


class CounterCache:
    """Element counters (see `element_counters`) of the shapes that were used last.

    Batches differ in T, and counters of scores take 4 H T**2 bytes, so few are kept: rows (T, D) are cut from the
    longest so far of their width, and of scores (H, T, T) only the last shape is kept.
    """

    def __init__(self) -> None:
        self._counters: dict[int, tuple[tuple[int, ...], Tensor]] = {}

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The counters (K,) int32 of a row's elements of this shape."""
        kind = shape[-1] if len(shape) == 2 else 0
        cached_shape, counters = self._counters.get(kind, ((), None))
        fits = cached_shape == shape or (kind > 0 and bool(cached_shape) and cached_shape[0] >= shape[0])
        if counters is None or counters.device != device or not fits:
            counters = element_counters(shape, device)
            self._counters[kind] = shape, counters
        return counters[: math.prod(shape)]


@dataclass(frozen=True)
class DropoutDraws:
    """The dropout of one pass.

    rate      probability of each element to be dropped, the same for every dropout in the body
    row_keys  (N,) int64 keys of the rows' draws
    counters  a cache of element counters
    """

    rate: float
    row_keys: Tensor
    counters: CounterCache


def hashed_uniform(keys: Tensor, salt: int, counters: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) that are a pure function of row key, salt and element counter.

    keys (N,) int64, counters (K,) int32 -> (N, K) float32. Integer hashing (lowbias32, Wellons 2018)
    rather than a generator: draws do not depend on packing, micro-batches, device or history.
    """
    mixed = (keys * 0x9E3779B1 + salt * 0x85EBCA77) & 0xFFFFFFFF
    mixed = torch.where(mixed >= 2**31, mixed - 2**32, mixed).to(torch.int32)
    h = counters[None] ^ mixed[:, None]
    h = (h ^ ((h >> 16) & 0xFFFF)) * 0x21F0AAAD
    h = (h ^ ((h >> 15) & 0x1FFFF)) * 0x735A2D97
    h = h ^ ((h >> 15) & 0x1FFFF)
    return (h & 0xFFFFFF).float() * 2.0**-24


def element_counters(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A scrambled number (K,) int32 for each element of a row: positions (T, D) or attention scores (H, T, T).

    It does not depend on T, the longest row of whichever batch the row came in: packed runs are cut
    to a common length that each alone need not have.
    """
    numbers = torch.zeros((), dtype=torch.int32, device=device)
    strides = (GRID * GRID, GRID, 1) if len(shape) == 3 else (shape[-1], 1)
    for size, stride in zip(shape, strides, strict=True):
        numbers = numbers[..., None] + torch.arange(size, dtype=torch.int32, device=device) * stride
    return numbers.flatten() * 0x2C1B3C6D
