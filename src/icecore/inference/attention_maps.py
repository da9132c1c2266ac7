"""Attention maps of a trained program: the mean over examples for each layer and head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core.errors import ConfigError
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Task

#: largest side of a map; longer sequences are pooled, because a screen shows no more and ListOps would take 1.2 GB
MAX_CELLS = 512
#: attention weights of one head in a pass; with 12 heads in fp32 a layer takes 50 MB
WEIGHTS_PER_PASS = 2**20


@dataclass(frozen=True)
class AttentionMaps:
    """Mean attention of one program over examples.

    maps      (L, H, C, C) for L layers, H heads and C cells of `stride` positions: the mean weight that the queries
              of a cell (row) give to all keys of a cell (column). Rows sum to 1, or to 0 if no example is that long
    examples  number of examples in the mean
    causal    whether a query cannot see later keys
    stride    positions of a cell
    """

    maps: Tensor
    examples: int
    causal: bool = False
    stride: int = 1


@torch.inference_mode()
def attention_maps(
    model: FPT, task: Task, split: str = "val", examples: int = 64, cells: int | None = None
) -> AttentionMaps:
    """Maps of a model with one run: the mean over the first `examples` of a split, without their padding.

    cells  largest side of a map; longer sequences are pooled. None: 512, and all positions for bit XOR

    Takes memory for the maps twice (4 L H C**2 bytes each: 75 MB for MiniLM at C = 512) and for the weights of one
    layer, at least 4 H T**2 bytes. Raises ConfigError if the model has several runs, `examples` is less than 1, or
    the body's attention cannot be recorded (it has none, or uses its family's own kernel).
    """
    if model.runs != 1:
        raise ConfigError(f"Attention maps are of one run, but this model has {model.runs}.")
    if examples < 1:
        raise ConfigError(f"examples is {examples}, but must be at least 1.")
    T, body = task.spec.length, model.backbone
    limit = cells or (T if isinstance(task, BitXor) else MAX_CELLS)
    stride = -(-T // limit)
    sums, count = _WeightSums(-(-T // stride), stride), 0
    for batch in map(task.prepare_batch, task.batches(split, max(1, WEIGHTS_PER_PASS // T**2), examples)):
        lengths = batch.row_lengths()
        sums.begin(lengths)
        model.features(batch, record=sums.add)
        count += len(batch)
    if not sums.layers:
        raise ConfigError(f"{body.info.name}: This body has no attention maps to record.")
    return AttentionMaps(normalize_rows(torch.stack(sums.layers).cpu()), count, body.info.causal, stride)


class _WeightSums:
    """Sums of attention weights over examples, one (H, C, C) for each of `layers`.

    The weights of each layer are added as soon as they are computed, so that no more than one layer's weights are in
    memory.
    """

    def __init__(self, cells: int, stride: int) -> None:
        self.cells, self.stride = cells, stride
        self.layers: list[Tensor] = []

    def begin(self, lengths: Sequence[int]) -> None:
        """Prepare for a pass over rows of these lengths."""
        self.lengths, self.layer = lengths, 0

    def add(self, weights: Tensor) -> None:
        """Add the weights (N, H, T, T) of the next layer, without those of padding."""
        if self.layer == len(self.layers):
            self.layers.append(weights.new_zeros(weights.shape[1], self.cells, self.cells))
        for row, length in zip(weights, self.lengths, strict=True):
            pooled = pool(row[:, :length, :length], self.stride)
            self.layers[self.layer][:, : pooled.shape[-1], : pooled.shape[-1]] += pooled
        self.layer += 1


def pool(maps: Tensor, stride: int) -> Tensor:
    """Sums (H, C, C) over squares of `stride` x `stride` positions of (H, T, T); the last squares may be smaller."""
    return F.avg_pool2d(maps, stride, ceil_mode=True, divisor_override=1) if stride > 1 else maps


def normalize_rows(sums: Tensor) -> Tensor:
    """Divide sums (..., C, C) by the sums of their rows, in place, which gives means over queries."""
    return sums.div_(sums.sum(-1, keepdim=True).clamp_(min=1e-9))
