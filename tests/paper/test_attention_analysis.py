"""Attention of the outputs of bit XOR on the bits that they need."""

import json
from typing import Any

import pytest
import torch

from attention_samples import HandMade
from icecore.core.errors import ConfigError
from icecore.inference.attention_maps import AttentionMaps, attention_maps
from icecore.paper.attention_analysis import XorAttention, xor_attention
from icecore.tasks.bits import BitXor


def test_attention_on_each_needed_bit():
    task = BitXor(n=2)
    maps = torch.full((1, 2, 4, 4), 0.25)
    maps[0, 1] = torch.tensor([[9.0] * 4, [9.0] * 4, [0.6, 0.1, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1]])
    shares = xor_attention(AttentionMaps(maps, 1), task)
    torch.testing.assert_close(shares.first, torch.tensor([[0.25, 0.5]]))
    torch.testing.assert_close(shares.own, torch.tensor([[0.25, 0.15]]))
    torch.testing.assert_close(shares.mass, torch.tensor([[0.5, 0.65]]))


@pytest.mark.parametrize(("causal", "expected"), [(False, 1 / 2), (True, (2 / 3 + 2 / 4) / 2)])
def test_equal_weights_on_visible_positions_give_the_uniform_share(causal: bool, expected: float):
    weights = torch.ones(1, 1, 4, 4)
    weights = weights.tril() if causal else weights
    shares = xor_attention(AttentionMaps(weights / weights.sum(-1, keepdim=True), 1, causal), BitXor(n=2))
    assert shares.uniform == pytest.approx(expected)
    assert shares.mass.item() == pytest.approx(expected)


def test_shares_of_256_bits_are_exact():
    """512 positions in several passes: half of each output's attention is on its first bit, a quarter on its own."""
    n = 256
    weights = torch.full((2 * n, 2 * n), 0.25 / (2 * n))
    weights += 0.5 * torch.eye(2 * n).roll(n, 0) + 0.25 * torch.eye(2 * n)
    model: Any = HandMade(lambda length: weights)
    shares = xor_attention(attention_maps(model, BitXor(n), examples=3), BitXor(n))
    torch.testing.assert_close(shares.first[0, 0].item(), 0.5 + 0.25 / 512)
    torch.testing.assert_close(shares.own[0, 0].item(), 0.25 + 0.25 / 512)
    assert shares.summary()["ratio"] == pytest.approx((0.75 + 0.5 / 512) * 256)


def test_the_summary_has_the_numbers_of_a_record():
    n, mass = 2, torch.tensor([[0.1, 0.2], [0.3, 0.1]])
    shares = XorAttention(n, mass, torch.tensor([[0.0, 0.4], [0.2, 0.1]]), 0.5)
    summary = json.loads(json.dumps(shares.summary()))
    assert (summary["n"], summary["layers"], summary["heads"]) == (2, 2, 2)
    assert (summary["best_layer"], summary["best_head"]) == (1, 2)
    expected = {"mean": 0.35, "best": 0.6, "first_bit_best": 0.3, "own_bit_best": 0.4, "uniform": 0.5, "ratio": 1.2}
    expected["first_bit_ratio"] = 1.2
    assert {name: summary[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (AttentionMaps(torch.ones(1, 1, 4, 4), 1), "n = 3 needs maps of 6 x 6 positions, but these have 4 x 4 cells"),
        (AttentionMaps(torch.ones(1, 1, 6, 6), 1, stride=2), "n = 3 needs maps of 6 x 6 positions"),
    ],
)
def test_maps_of_another_size_are_refused(maps: AttentionMaps, message: str):
    with pytest.raises(ConfigError, match=message):
        xor_attention(maps, BitXor(n=3))
