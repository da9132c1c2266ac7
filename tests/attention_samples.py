"""A stand-in for a model whose attention weights a test chooses."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from icecore.tasks.task import Batch


class HandMade:
    """A model stand-in of two layers with one head; `weights(length)` are the weights on a row's real tokens."""

    runs = 1

    def __init__(self, weights, causal: bool = False) -> None:
        self.weights = weights
        self.backbone = SimpleNamespace(info=SimpleNamespace(name="hand-made", causal=causal))

    def features(self, batch: Batch, record: Callable[[Tensor], object]) -> None:
        T = batch.tokens.shape[1]
        lengths = [T] * len(batch) if batch.lengths is None else batch.lengths.tolist()
        for layer in range(2):
            # padding may attend to anything, but nothing attends to padding
            rows = torch.full((len(batch), 1, T, T), 9.0)
            for row, length in zip(rows, lengths, strict=True):
                row[:, :length, length:] = 0
                row[:, :length, :length] = self.weights(length).roll(layer, -1)
            record(rows)
