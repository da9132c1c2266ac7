"""The statistics of one layer: of its hidden states, its attention and its norms, summed over the passes of a body.

Massive activations (Sun et al. 2024, arXiv 2402.17762) show in the shares of the largest dimensions, attention sinks
(Gu et al. 2025, arXiv 2410.10781) in the weight on the first position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.backbones.modules.body_pass import NormParameters

INPUT_STAGE, FIRST_NORM, LAST_NORM = "input", "first norm", "last norm"
#: a head has an attention sink if its mean weight on the first position is larger than this (Gu et al. 2025, Section 3)
SINK_WEIGHT = 0.3
#: ... and larger than this many times uniform attention, because queries of short sequences have few positions to see
SINK_TIMES_UNIFORM = 2.0
#: dimensions of `top_share`
TOP_DIMENSIONS = 10


@dataclass(frozen=True)
class HiddenStatistics:
    """Hidden states (N, T, D) at one place of a body, over their real tokens. NaN where there is nothing to measure.

    rms                   root mean square over D of a token, as the mean over tokens
    rms_by_position       (T,) the same at each position, as the mean over examples
    top_dimension         the dimension with the largest share of a token's squared norm, on average over tokens
    top_share             its share
    top10_share           the share of the ten dimensions with the largest shares
    own_share_by_position (T,) the share of each token's own largest dimension, as the mean over examples
    cosine                cosine of two different tokens of a row, as the mean over pairs and rows
    peak_ratio            the largest magnitude of all, relative to the median magnitude in a token
    not_finite            share of tokens with a value that is not finite; other statistics leave them out
    """

    rms: float
    rms_by_position: Tensor
    top_dimension: int
    top_share: float
    top10_share: float
    own_share_by_position: Tensor
    cosine: float
    peak_ratio: float
    not_finite: float

    def extreme_position(self, largest: bool) -> int:
        """The position, counted from 0, with the largest or smallest root mean square."""
        missing = -math.inf if largest else math.inf
        rms = self.rms_by_position.nan_to_num(nan=missing)
        return int(rms.argmax() if largest else rms.argmin())


@dataclass(frozen=True)
class AttentionStatistics:
    """Attention of one layer, as the mean over examples, heads and real queries.

    first         weight on the first position
    uniform_first the weight that the first position would have if attention were uniform
    sink_heads    share of heads with an attention sink at the first position
    entropy       entropy relative to the largest possible one, of queries that see several positions; 1 is uniform
    reach         exp(entropy), the effective number of positions that a query attends to
    received      (T,) weight that each position gets; the first one is `first`
    """

    first: float
    uniform_first: float
    sink_heads: float
    entropy: float
    reach: float
    received: Tensor


@dataclass(frozen=True)
class NormStatistics:
    """Gains and biases (D,) of one norm: root mean squares, and the smallest and largest magnitude of a gain.

    name  of the module in the body
    bias  None if the norm has no biases
    """

    name: str
    gain: float
    smallest_gain: float
    largest_gain: float
    bias: float | None

    @classmethod
    def of(cls, name: str, parameters: NormParameters) -> "NormStatistics":
        """The statistics of the gains (1, D) and biases (1, D) of one program."""
        gains = parameters.weight.detach().double().cpu()
        bias = None if parameters.bias is None else _rms(parameters.bias.detach().double().cpu())
        return cls(name, _rms(gains), float(gains.abs().min()), float(gains.abs().max()), bias)


@dataclass(frozen=True)
class Stage:
    """One place of a body: its input, a norm before or after all layers, or the output of a layer.

    name       "input", "first norm", "layer 1" and so on, "last norm"
    attention  of the layer; None where attention is not recorded
    norms      those that come with the stage, in the order of the body's modules
    """

    name: str
    hidden: HiddenStatistics
    attention: AttentionStatistics | None = None
    norms: Sequence[NormStatistics] = ()

    @property
    def length(self) -> int:
        """T, the length of the longest example."""
        return len(self.hidden.rms_by_position)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


class HiddenSums:
    """Sums over the tokens of hidden states, in fp64 on the CPU.

    length  T, the longest sequence that may come
    """

    def __init__(self, length: int) -> None:
        self.counts, self.rms, self.own_share = (torch.zeros(length, dtype=torch.float64) for _ in range(3))
        self.shares: Tensor | None = None
        self.longest = self.tokens = self.directed_tokens = self.rows = 0
        self.cosines = self.medians = self.peak = 0.0

    def add(self, hidden: Tensor, lengths: Sequence[int]) -> None:
        """Add hidden states (N, T, D) of rows with these numbers of real tokens."""
        for row, length in zip(hidden.detach().cpu().double(), lengths, strict=True):
            self._add_row(row[:length])

    def _add_row(self, x: Tensor) -> None:
        T, D = x.shape
        self.tokens += T
        self.longest = max(self.longest, T)
        finite = x.isfinite().all(-1)
        x = x.masked_fill(~finite[:, None], 0)
        squares = x.square()
        norms = squares.sum(-1)
        self.counts[:T] += finite
        self.rms[:T] += (norms / D).sqrt()
        shares = squares / norms.clamp(min=torch.finfo(x.dtype).tiny)[:, None]
        self.own_share[:T] += shares.amax(-1)
        self.shares = shares.sum(0) if self.shares is None else self.shares + shares.sum(0)
        magnitudes = x.abs()
        self.medians += float(magnitudes.median(-1).values.sum())
        self.peak = max(self.peak, float(magnitudes.max()))
        # a token of zeros, such as an empty patch without positions, has no direction
        directed = int((norms > 0).sum())
        self.directed_tokens += directed
        if directed > 1:
            total = F.normalize(x, dim=-1).sum(0).square().sum()
            self.cosines += float((total - directed) / (directed * (directed - 1)))
            self.rows += 1

    def statistics(self) -> HiddenStatistics:
        """The statistics of all rows that were added."""
        finite, directed, T = int(self.counts.sum()), self.directed_tokens, self.longest
        assert self.shares is not None
        largest = self.shares.topk(min(TOP_DIMENSIONS, len(self.shares)))
        return HiddenStatistics(
            rms=_divide(float(self.rms.sum()), finite),
            rms_by_position=(self.rms / self.counts)[:T],
            top_dimension=int(largest.indices[0]),
            top_share=_divide(float(largest.values[0]), directed),
            top10_share=_divide(float(largest.values.sum()), directed),
            own_share_by_position=(self.own_share / self.counts)[:T],
            cosine=_divide(self.cosines, self.rows),
            peak_ratio=_divide(self.peak * finite, self.medians),
            not_finite=1 - finite / self.tokens,
        )


def _divide(value: float, count: float) -> float:
    return value / count if count else math.nan


class AttentionSums:
    """Sums over the queries of attention weights, each row without its padding.

    length  T, the longest sequence that may come
    causal  whether a query sees no later positions
    """

    def __init__(self, length: int, causal: bool) -> None:
        self.causal = causal
        self.received, self.counts = torch.zeros(length), torch.zeros(length)
        self.first: Tensor | None = None
        self.longest = self.rows = self.rows_with_choice = 0
        self.uniform = self.entropy = self.reach = 0.0

    def add(self, weights: Tensor, lengths: Sequence[int]) -> None:
        """Add the weights (N, H, T, T) of rows with these numbers of real tokens."""
        for row, length in zip(weights.detach().float(), lengths, strict=True):
            self._add_row(row[:, :length, :length])

    def _add_row(self, weights: Tensor) -> None:
        T = weights.shape[-1]
        self.longest = max(self.longest, T)
        visible = torch.arange(1, T + 1) if self.causal else torch.full((T,), T)
        self.received[:T] += weights.mean((0, 1)).cpu()
        self.counts[:T] += 1
        first = weights[:, :, 0].mean(-1).cpu()
        self.first = first if self.first is None else self.first + first
        self.uniform += float((1 / visible).mean())
        entropy = -torch.xlogy(weights, weights).sum(-1).cpu()
        self.reach += float(entropy.exp().mean())
        self.rows += 1
        chooses = visible > 1
        if chooses.any():
            self.entropy += float((entropy[:, chooses] / visible[chooses].log()).mean())
            self.rows_with_choice += 1

    def statistics(self) -> AttentionStatistics:
        """The statistics of all rows that were added."""
        assert self.first is not None
        heads, uniform = self.first / self.rows, self.uniform / self.rows
        return AttentionStatistics(
            first=float(heads.mean()),
            uniform_first=uniform,
            sink_heads=float((heads > max(SINK_WEIGHT, SINK_TIMES_UNIFORM * uniform)).float().mean()),
            entropy=_divide(self.entropy, self.rows_with_choice),
            reach=self.reach / self.rows,
            received=(self.received / self.counts)[: self.longest],
        )
