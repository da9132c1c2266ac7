"""Effects equal those computed by hand, contain the truth as often as they say, and are judged by the rule."""

import math
import random

import pytest

from icecore.report.effects import Contrast, Decision, Effect, Sample, decide


def difference(first: Sample, second: Sample) -> Effect:
    return Contrast.difference(("a", first), ("b", second)).effect


def test_the_interval_is_that_of_welch() -> None:
    effect = difference(Sample.of([90, 93, 96]), Sample.of([80, 81, 82]))
    # variances of the means 3 and 1/3, 2 degrees of freedom each: 2.44 together, by hand
    assert effect.value == pytest.approx(12)
    error, degrees = math.sqrt(3 + 1 / 3), (3 + 1 / 3) ** 2 / (9 / 2 + 1 / 18)
    assert degrees == pytest.approx(2.439, abs=1e-3)
    assert (effect.high - effect.low) / 2 == pytest.approx(3.6394 * error, rel=1e-3)
    assert effect.high - effect.value == pytest.approx(effect.value - effect.low)
    assert effect.smallest > (effect.high - effect.low) / 2


def test_test_examples_add_an_error_that_seeds_do_not_shrink() -> None:
    few, many = Sample.of([50.0] * 3, 100), Sample.of([50.0] * 30, 100)
    assert few.error == pytest.approx(many.error)
    assert few.error == pytest.approx(100 * math.sqrt(0.25 / 104))
    assert Sample.of([50.0] * 3, 10_000).error == pytest.approx(0.5, rel=1e-3)
    # all right on 500 examples is no proof of no error
    assert 0.2 < Sample.of([100.0] * 3, 500).error < 0.4


def test_without_any_error_the_interval_is_the_value() -> None:
    assert difference(Sample.of([7.0, 7.0]), Sample.of([2.0, 2.0])) == Effect(5.0, 5.0, 5.0, 0.0)


def test_intervals_contain_the_true_difference_as_often_as_they_say() -> None:
    generator, inside, shown, count = random.Random(0), 0, 0, 2000
    for _ in range(count):
        rows = [[generator.gauss(mean, 1.0) for _ in range(3)] for mean in (50, 48)]
        effect = difference(*map(Sample.of, rows))
        inside += effect.low <= 2 <= effect.high
    assert 0.94 <= inside / count <= 0.98
    # an effect of the smallest size is told apart from none in four of five cases
    smallest = difference(Sample(0, 3, ((1 / 3, math.inf),)), Sample(0, 3, ((1 / 3, math.inf),))).smallest
    for _ in range(count):
        shown += generator.gauss(smallest, math.sqrt(2 / 3)) > 1.959964 * math.sqrt(2 / 3)
    assert shown / count == pytest.approx(0.8, abs=0.03)


def test_a_cell_in_two_differences_is_counted_once() -> None:
    shared, other = Sample(50, 3, ((4.0, math.inf),)), Sample(40, 3)
    differences = [Contrast.difference((name, other), ("shared", shared)) for name in ("a", "b", "c", "d")]
    effect = Contrast.mean(differences).effect
    assert effect.value == -10
    assert effect.high - effect.value == pytest.approx(1.959964 * 2)  # as large as for one difference
    apart = [Contrast.difference((name, other), (f"own {name}", shared)) for name in ("a", "b", "c", "d")]
    assert Contrast.mean(apart).effect.high + 10 == pytest.approx(1.959964)


@pytest.mark.parametrize(
    ("low", "value", "high", "better", "as_good"),
    [
        (3, 5, 7, Decision.HOLDS, Decision.HOLDS),
        (0.2, 0.5, 0.8, Decision.FAILS, Decision.HOLDS),
        (0.1, 0.9, 1.7, Decision.UNSEEN, Decision.HOLDS),
        (-0.5, 0.1, 0.7, Decision.FAILS, Decision.HOLDS),
        (-4, 2, 8, Decision.UNSEEN, Decision.UNSEEN),
        (-4, -2, 0.5, Decision.FAILS, Decision.UNSEEN),
        (-4, -2, -0.5, Decision.FAILS, Decision.FAILS),
        (-1.7, -0.9, -0.1, Decision.FAILS, Decision.UNSEEN),
    ],
)
def test_the_rule(low: float, value: float, high: float, better: Decision, as_good: Decision) -> None:
    effect = Effect(value, low, high, 1.0)
    assert decide(effect, "better", 1.0)[0] is better
    assert decide(effect, "as good", 1.0)[0] is as_good


def test_as_good_is_the_denial_of_the_other_row_being_better() -> None:
    generator = random.Random(1)
    denial = {Decision.HOLDS: Decision.FAILS, Decision.FAILS: Decision.HOLDS, Decision.UNSEEN: Decision.UNSEEN}
    for _ in range(500):
        value, width = generator.gauss(0, 3), generator.random() * 4
        effect = Effect(value, value - width, value + width, 1.0)
        mirrored = Effect(-value, -value - width, -value + width, 1.0)
        ours, theirs = decide(effect, "as good", 2.0), decide(mirrored, "better", 2.0)
        assert ours[0] is denial[theirs[0]]
        assert ours[1] == theirs[1]


def test_what_is_too_small_to_see_is_less_than_the_end_of_the_interval() -> None:
    assert decide(Effect(2, -4, 8, 1), "better", 1.0) == (Decision.UNSEEN, 8)
    assert decide(Effect(2, -4, 8, 1), "as good", 1.0) == (Decision.UNSEEN, 4)
