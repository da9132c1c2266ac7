"""Findings: each sentence appears at its threshold and not below, and says what was measured."""

from typing import Any

import pytest
import torch

from icecore.inspection.findings import describe_findings, number
from icecore.inspection.layer_statistics import AttentionStatistics, HiddenStatistics, NormStatistics, Stage

NOTHING = ["Nothing stands out: no number passes the thresholds of `icecore inspect`."]
T = 4


def hidden(**changes: Any) -> HiddenStatistics:
    plain = {"rms": 1.0, "rms_by_position": torch.ones(T), "top_dimension": 7, "top_share": 0.1, "top10_share": 0.3}
    plain |= {"own_share_by_position": torch.full((T,), 0.1), "cosine": 0.2, "peak_ratio": 20.0, "not_finite": 0.0}
    return HiddenStatistics(**plain | changes)


def attention(**changes: Any) -> AttentionStatistics:
    plain = {"first": 0.3, "uniform_first": 0.01, "sink_heads": 0.1, "entropy": 0.7, "reach": 3.0}
    return AttentionStatistics(received=torch.ones(T) / T, **plain | changes)


def body(*layers: Stage, start: HiddenStatistics | None = None) -> list[Stage]:
    return [Stage("input", start or hidden()), *layers]


def layers(*changes: dict[str, Any]) -> list[Stage]:
    return [Stage(f"layer {n}", hidden(**change)) for n, change in enumerate(changes, 1)]


def test_a_body_without_peculiarities() -> None:
    assert describe_findings(body(*layers({}, {}))) == NOTHING


def test_a_dimension_that_dominates_everywhere_is_a_massive_activation() -> None:
    most = torch.tensor([0.6, 0.9, 0.9, 0.9])
    some = torch.tensor([0.6, 0.1, 0.1, 0.1])
    stages = body(
        *layers(
            {},
            {"own_share_by_position": some},
            {"own_share_by_position": most, "top_share": 0.97, "top_dimension": 138, "peak_ratio": 3400.0},
            {},
            {"own_share_by_position": some},
        )
    )
    assert describe_findings(stages) == [
        "One dimension holds more than half of a token's squared norm at 4 of 4 positions after layer 3, and at some "
        "positions after layers 2 to 3 and 5. After layer 3, dimension 138 holds 97 % on average over tokens.",
        "The largest value is up to 3,400 times the median magnitude after layer 3: massive activations, which are at "
        "least 1,000 times the median (Sun et al. 2024).",
    ]


def test_a_single_position_is_named() -> None:
    share = torch.tensor([0.1, 0.1, 0.6, 0.1])
    stages = body(*layers({"own_share_by_position": share, "peak_ratio": 999.0}))
    assert describe_findings(stages) == [
        "One dimension holds more than half of a token's squared norm at 1 of 4 positions (position 2) after layer 1."
    ]


@pytest.mark.parametrize(("largest", "stands_out"), [(9.9, False), (10.0, True)])
def test_one_position_is_much_larger(largest: float, stands_out: bool) -> None:
    sizes = torch.tensor([1.0, 1.0, largest, 1.0])
    expected = [
        "Some positions are much larger than others after layer 1. After layer 1, position 2 is the largest, 10 times "
        "the median position."
    ]
    assert describe_findings(body(*layers({"rms_by_position": sizes}))) == (expected if stands_out else NOTHING)


def test_growth_is_that_of_the_layers() -> None:
    grown = layers({"rms": 4.0}, {"rms": 119.0}, {"rms": 120.0})
    expected = ["Hidden states grow from a root mean square of 0.50 at the input to 119 after layer 2, 238 times."]
    assert describe_findings(body(*grown, start=hidden(rms=0.5))) == expected
    # what a norm before or after the layers makes of them is its gains
    norms = [
        Stage("input", hidden(rms=0.01)),
        Stage("first norm", hidden()),
        *layers({}, {}),
        Stage("last norm", hidden(rms=50.0)),
    ]
    assert describe_findings(norms) == NOTHING


def test_alike_tokens_are_compared_with_the_input() -> None:
    stages = body(*layers({"cosine": 0.89}, {"cosine": 0.95}, {"cosine": 0.98}))
    expected = ["Tokens look alike after layers 2 to 3: their mean cosine is up to 0.98, and 0.20 at the input."]
    assert describe_findings(stages) == expected
    already = body(*layers({}), start=hidden(cosine=0.93))
    assert describe_findings(already) == ["Tokens look alike at the input: their mean cosine is up to 0.93."]


def test_sinks() -> None:
    heads = [0.4, 0.5, 0.9, 0.9]
    stages = [Stage(f"layer {n}", hidden(), attention(sink_heads=each, first=0.1 * n)) for n, each in enumerate(heads)]
    assert describe_findings(body(*stages)) == [
        "The first position is an attention sink in layers 1 to 3: at least half of the heads give it more than 30 % "
        "of their attention (Gu et al. 2025). In layer 3 it gets 30 % of all attention, and would get 1.0 % if "
        "attention were uniform."
    ]


@pytest.mark.parametrize(("entropy", "stands_out"), [(0.979, False), (0.981, True)])
def test_uniform_attention(entropy: float, stands_out: bool) -> None:
    expected = [
        "Attention is almost uniform in layer 1: its entropy is at least 98.1 % of the largest possible one, so each "
        "head takes about the mean of all positions that it sees."
    ]
    stages = body(Stage("layer 1", hidden(), attention(entropy=entropy)))
    assert describe_findings(stages) == (expected if stands_out else NOTHING)


def test_gains_of_different_scales() -> None:
    norms = [NormStatistics("a", 0.04, 0.0, 0.1, None), NormStatistics("b", 0.3, 0.0, 1.0, None)]
    stages = body(
        Stage("layer 1", hidden(), norms=norms),
        Stage("last norm", hidden(), norms=[NormStatistics("c", 1.8, 1.0, 2.0, None)]),
    )
    assert describe_findings(stages) == [
        "Norm gains lie on different scales: a root mean square of 0.040 in norm 1 of layer 1 and of 1.80 in the last "
        "norm, 45 times."
    ]
    assert describe_findings(body(Stage("layer 1", hidden(), norms=norms))) == NOTHING


@pytest.mark.parametrize("value", [1e-9, -0.00099, 0.001, 0.0995, 9.995, 99.95, 99_949.0, 1e5, -1e12])
def test_numbers_are_short_and_right(value: float) -> None:
    assert len(number(value)) <= 6
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.06)
