"""How much attention the outputs of bit XOR pay to what they need.

Each output of bit XOR needs two bits. The share of attention on them, compared with uniform attention, is the
claim of the paper's Section 3.5 as a number.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icecore.core.errors import ConfigError
from icecore.inference.attention_maps import AttentionMaps
from icecore.tasks.bits import BitXor


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
