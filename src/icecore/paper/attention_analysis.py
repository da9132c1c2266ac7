"""Attention maps of a trained program: the mean over examples for each layer and head, and what bit XOR needs of them.

Each output of bit XOR needs two bits. The share of attention on them, compared with uniform attention, is the
claim of the paper's Section 3.5 as a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icecore.core.errors import ConfigError
from icecore.inference.attention_maps import normalize_rows, pool
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


@dataclass(frozen=True)
class XorAttention:
    """Attention of the outputs of bit XOR on the two bits they need, as the mean over the n outputs.

    first    (L, H) share on the bit of the first string, which an output can only know by attention
    own      (L, H) share on the bit of the second string, at the position that the output is read from
    uniform  share on both bits if a query gave all visible positions the same weight
    """

    n: int
    first: Tensor
    own: Tensor
    uniform: float

    @property
    def mass(self) -> Tensor:
        """Share (L, H) on both bits."""
        return self.first + self.own

    def summary(self) -> dict[str, Any]:
        """The numbers for a record. `best` is the best head's share; layers and heads count from 1.

        Ratios are relative to uniform attention. In most bodies a query attends to its own position even before
        training, so `first_bit_ratio` shows what training changes.
        """
        L, H = self.mass.shape
        layer, head = divmod(int(self.mass.argmax()), H)
        best = float(self.mass.max())
        return {
            "n": self.n,
            "layers": L,
            "heads": H,
            "mean": float(self.mass.mean()),
            "best": best,
            "best_layer": layer + 1,
            "best_head": head + 1,
            "first_bit_best": float(self.first.max()),
            "own_bit_best": float(self.own.max()),
            "uniform": self.uniform,
            "ratio": best / self.uniform,
            "first_bit_ratio": float(self.first.max()) / (self.uniform / 2),
        }


def xor_attention(maps: AttentionMaps, task: BitXor) -> XorAttention:
    """Measure the maps of bit XOR. Raises ConfigError if maps are pooled or have another length."""
    T, C = task.spec.length, maps.maps.shape[-1]
    if maps.stride > 1 or C != T:
        raise ConfigError(f"bit-xor: n = {task.n} needs maps of {T} x {T} positions, but these have {C} x {C} cells.")
    first, own = torch.tensor([task.relevant(i) for i in range(task.n)]).T
    # an output is read at its own bit, and a causal query sees the positions up to itself
    visible = own + 1 if maps.causal else torch.full_like(own, T)
    on_first, on_own = (maps.maps[:, :, own, key].mean(-1) for key in (first, own))
    return XorAttention(task.n, on_first, on_own, float((2 / visible.double()).mean()))


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
