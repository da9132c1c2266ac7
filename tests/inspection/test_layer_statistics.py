"""The statistics of hidden states, attention and norms equal what can be worked out by hand."""

import math

import pytest
import torch

from icecore.backbones.modules.body_pass import NormParameters
from icecore.inspection.layer_statistics import (
    AttentionStatistics,
    AttentionSums,
    HiddenStatistics,
    HiddenSums,
    NormStatistics,
)


def hidden_statistics(hidden: torch.Tensor, *lengths: int) -> HiddenStatistics:
    sums = HiddenSums(hidden.shape[1] + 2)  # longer rows might have come
    sums.add(hidden, lengths)
    return sums.statistics()


def attention_statistics(weights: torch.Tensor, *lengths: int, causal: bool = False) -> AttentionStatistics:
    sums = AttentionSums(weights.shape[-1] + 2, causal)
    sums.add(weights, lengths)
    return sums.statistics()


def test_sizes_are_means_over_tokens_and_padding_does_not_count() -> None:
    hidden = torch.tensor([[[3.0, 3.0], [1.0, 1.0]], [[5.0, 5.0], [9e9, 9e9]]])
    found = hidden_statistics(hidden, 2, 1)
    assert found.rms == pytest.approx((3 + 1 + 5) / 3)
    assert found.rms_by_position.tolist() == pytest.approx([4, 1])
    assert (found.extreme_position(largest=True), found.extreme_position(largest=False)) == (0, 1)


def test_shares_of_dimensions() -> None:
    """Dimension 2 holds 0.9 and 0.5 of two tokens; the second one's own largest dimension is another."""
    squares = torch.tensor([[0.1, 0.0, 0.9, 0.0], [0.0, 0.5, 0.3, 0.2]])
    found = hidden_statistics((7 * squares).sqrt()[None], 2)
    assert found.top_dimension == 2
    assert found.top_share == pytest.approx(0.6)
    assert found.own_share_by_position.tolist() == pytest.approx([0.9, 0.5])
    assert found.top10_share == pytest.approx(1)


def test_ten_dimensions_of_twenty_equal_ones_hold_half() -> None:
    found = hidden_statistics(torch.ones(1, 3, 20), 3)
    assert found.top_share == pytest.approx(1 / 20)
    assert found.top10_share == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([[1, 0], [3, 0], [2, 0]], 1),
        ([[1, 0], [0, 1]], 0),
        ([[1, 0], [-2, 0]], -1),
        ([[1, 0], [0, 1], [1, 1]], (0 + 2 * math.sqrt(0.5)) / 3),
        ([[1, 0], [0, 0], [1, 1]], math.sqrt(0.5)),  # a token of zeros has no direction
    ],
)
def test_cosines_are_means_over_pairs(tokens: list[list[int]], expected: float) -> None:
    found = hidden_statistics(torch.tensor([tokens], dtype=torch.float32), len(tokens))
    assert found.cosine == pytest.approx(expected)


def test_a_single_token_has_no_cosine() -> None:
    assert math.isnan(hidden_statistics(torch.ones(1, 1, 4), 1).cosine)


def test_the_peak_is_relative_to_the_median_magnitude() -> None:
    hidden = torch.tensor([[[2.0, -2.0, 2.0], [4.0, -4000.0, 4.0]]])
    assert hidden_statistics(hidden, 2).peak_ratio == pytest.approx(4000 / 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_tokens_that_are_not_finite_are_counted_and_left_out(bad: float) -> None:
    hidden = torch.ones(1, 4, 3)
    hidden[0, 2, 1] = bad
    found = hidden_statistics(hidden, 4)
    assert found.not_finite == pytest.approx(1 / 4)
    assert (found.rms, found.cosine) == (pytest.approx(1), pytest.approx(1))
    assert math.isnan(found.rms_by_position[2])
    assert found.extreme_position(largest=True) != 2
    nothing = hidden_statistics(hidden * math.nan, 4)
    assert nothing.not_finite == 1
    assert all(math.isnan(value) for value in (nothing.rms, nothing.top_share, nothing.cosine, nothing.peak_ratio))


def test_uniform_attention() -> None:
    found = attention_statistics(torch.full((1, 2, 4, 4), 1 / 4), 4)
    assert (found.first, found.uniform_first, found.entropy) == pytest.approx((0.25, 0.25, 1))
    assert found.reach == pytest.approx(4)
    assert found.sink_heads == 0
    assert found.received.tolist() == pytest.approx([0.25] * 4)


def test_uniform_causal_attention() -> None:
    """Queries see 1, 2, 3 positions; the entropy of the first says nothing."""
    weights = torch.ones(3, 3).tril() / torch.arange(1, 4)[:, None]
    found = attention_statistics(weights[None, None], 3, causal=True)
    share = (1 + 1 / 2 + 1 / 3) / 3
    assert (found.first, found.uniform_first, found.entropy) == pytest.approx((share, share, 1))
    assert found.reach == pytest.approx((1 + 2 + 3) / 3)
    # 0.61 is more than 0.3, but it is what uniform attention gives
    assert found.sink_heads == 0


def test_a_sink_is_a_head_with_much_weight_on_the_first_position() -> None:
    sink, elsewhere = torch.zeros(8, 8), torch.zeros(8, 8)
    sink[:, 0], elsewhere[:, 5] = 1, 1
    found = attention_statistics(torch.stack([sink, elsewhere, elsewhere, elsewhere])[None], 8)
    assert (found.first, found.sink_heads) == pytest.approx((1 / 4, 1 / 4))
    assert (found.entropy, found.reach) == pytest.approx((0, 1))
    assert found.received.tolist() == pytest.approx([1 / 4, 0, 0, 0, 0, 3 / 4, 0, 0])


def test_padding_gets_no_attention_and_its_queries_do_not_count() -> None:
    weights = torch.full((2, 1, 4, 4), 9.0)
    weights[0, 0] = torch.tensor([1.0, 0, 0, 0])
    weights[1, 0, :2, :2] = 1 / 2
    found = attention_statistics(weights, 4, 2)
    assert (found.first, found.uniform_first, found.entropy) == pytest.approx((3 / 4, 3 / 8, 1 / 2))
    assert found.received.tolist() == pytest.approx([3 / 4, 1 / 4, 0, 0])


def test_norms() -> None:
    gains = torch.tensor([[3.0, -4.0, 0.0, 0.0]])
    found = NormStatistics.of("model.norm", NormParameters(gains, torch.full((1, 4), -2.0)))
    assert found == NormStatistics("model.norm", 2.5, 0.0, 4.0, 2.0)
    assert NormStatistics.of("model.norm", NormParameters(gains, None)).bias is None
