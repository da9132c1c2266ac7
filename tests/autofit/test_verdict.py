"""Verdicts: what may be said of a body from one training and from several, and of few rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from icecore.autofit import fit
from icecore.autofit.fit import Result, difference, verdict


def result(name: str, *right: float, of: int = 100, draw: np.random.Generator | None = None) -> Result:
    """Of trainings, one a seed, that get these shares of rows right: the first rows, or those that are drawn."""
    order = (lambda: torch.arange(of)) if draw is None else lambda: torch.from_numpy(draw.permutation(of))
    each = torch.stack([order().lt(round(share * of)).float() for share in right])
    # the baseline is the same for any seed
    return Result(name, each[0], 0.0, 0.0, trainings=None if name == "plain" else each, seeds=tuple(range(len(right))))


def random_body(*right: float, of: int = 100, draw: np.random.Generator | None = None) -> Result:
    return result("the same body, random", *right, of=of, draw=draw)


ONE = "± counts test rows only: trainings of one body with other seeds differ too, often by as much; --seeds 0,1,2"


@pytest.mark.parametrize(
    ("ours", "random", "plain", "words"),
    [
        (
            0.9,
            0.6,
            0.5,
            ["body is 30.0 ± 4.6 points above the same body", "It is 40.0 ± 4.9 points above no body, the"],
        ),
        (
            0.6,
            0.9,
            0.5,
            ["body is 30.0 ± 4.6 points below the same body", "It is 10.0 ± 3.0 points above no body, the"],
        ),
        (
            0.6,
            0.6,
            0.61,
            ["made no difference that 100 test rows could show: +0.0", "It is not clearly better than no"],
        ),
        (0.6, 0.5, 0.95, ["No body, the best of the plain ones, is 35.0 ± 4.8 points above it."]),
    ],
)
def test_of_one_seed_only_these_trainings_are_compared(
    ours: float, random: float, plain: float, words: list[str]
) -> None:
    said = verdict(result("minilm", ours), [random_body(random), result("no body", plain)])
    assert said.startswith("In this one training of each, the pretrained body ")
    for part in (*words, ONE):
        assert part in said
    for claim in ("helped", "hurt", "use that", "does as well"):
        assert claim not in said


@pytest.mark.parametrize(
    ("ours", "random", "plain", "words"),
    [
        (0.9, 0.6, 0.5, ["The pretrained body helped: 30.0", "It beats no body, the best of the plain ones, by 40.0"]),
        (0.6, 0.9, 0.5, ["The pretrained body hurt: 30.0 ± 4.6 points below", "It beats no body"]),
        (0.6, 0.5, 0.95, ["helped: 10.0", "No body, the best of the plain ones, is 35.0 ± 4.8 points above it: use"]),
    ],
)
def test_of_several_seeds_a_difference_is_the_bodys(ours: float, random: float, plain: float, words: list[str]) -> None:
    three = [[share - 0.01, share, share + 0.01] for share in (ours, random, plain)]
    said = verdict(result("minilm", *three[0]), [random_body(*three[1]), result("no body", *three[2])])
    for part in (*words, "Means over 3 seeds; ± counts seeds and test rows."):
        assert part in said
    assert "In th" not in said


def test_one_body_is_not_called_better_than_itself() -> None:
    # trainings of one random body that differ in the seed alone, on 2,000 test rows, dealt to two contenders
    ours, same = (0.622, 0.588, 0.611), (0.586, 0.587)
    one, other = result("minilm", *ours, of=2000), random_body(*same, of=2000)
    assert "made no difference that 2,000 test rows could show" in verdict(one, [other])
    # by rows alone they are far apart, the best training of each, too
    gaps = one.each.mean(0) - other.each.mean(0)
    assert float(gaps.mean()) > 5 * float(gaps.std() / len(gaps) ** 0.5)
    single = difference(result("minilm", max(ours), of=2000), random_body(max(same), of=2000))
    assert (single.side, single.seeded) == (1, False)


def test_false_alarms_are_as_rare_as_said() -> None:
    draw = np.random.default_rng(0)

    def clear(gap: float) -> float:
        """How often trainings whose seeds spread by 1.6 points are told apart, their means `gap` apart."""
        sides = []
        for _ in range(200):
            ours, random = (draw.normal(mean, 0.016, 3) for mean in (0.6 + gap, 0.6))
            ours, random = result("minilm", *ours, of=2000, draw=draw), random_body(*random, of=2000, draw=draw)
            sides.append(difference(ours, random).side)
        return float(np.mean(sides)) if gap else float(np.mean(np.abs(sides)))

    assert clear(0.0) < 0.08
    assert clear(0.1) > 0.95


def test_a_baseline_needs_no_seeds_of_its_own() -> None:
    said = verdict(result("minilm", 0.6, 0.61, 0.59), [result("plain", 0.5)])
    assert said.startswith("It beats plain, the best of the plain ones, by 10.0")
    assert ONE in verdict(result("minilm", 0.6), [result("plain", 0.5)])
    # where one side's seeds are known and the other's are not, the difference's are not
    assert ONE in verdict(result("minilm", 0.6, 0.61, 0.59), [random_body(0.5), result("plain", 0.5)])


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_few_rows_allow_no_verdict(seeds: int) -> None:
    for rows in (1, 9):
        others = [random_body(*[0.0] * seeds, of=rows), result("plain", 1.0, of=rows)]
        said = verdict(result("minilm", *[1.0] * seeds, of=rows), others)
        assert said == f"Too few test rows ({rows}) for a verdict."
    ten = verdict(result("minilm", *[1.0] * seeds, of=10), [random_body(*[0.0] * seeds, of=10)], rows="validation")
    assert "Too few" not in ten
    assert "validation rows" in ten


def test_scores_that_are_not_finite_allow_no_verdict() -> None:
    odd = replace(result("minilm", 0.5), trainings=torch.full((1, 100), torch.inf))
    assert verdict(odd, [random_body(0.5)]) == "No verdict: some scores are not finite."


def test_a_verdict_on_numbers_is_in_the_metric_of_numbers() -> None:
    said = verdict(result("minilm", 0.6, 0.6), [result("plain", 0.5)], "r2")
    assert said.startswith("It beats plain, the best of the plain ones, by 0.100 ± 0.030 of R².")


def test_differences_are_paired() -> None:
    one, other = result("a", 0.9), result("b", 0.8)
    found = difference(one, other)
    rows = np.std([1] * 10 + [0] * 90, ddof=1) / 10
    assert found.gap == pytest.approx(0.1)
    assert found.error == pytest.approx(rows)
    assert difference(one, one) == fit.Difference(0.0, 0.0, 2.0, False)


def test_seeds_add_to_the_error_of_a_difference() -> None:
    stats = pytest.importorskip("scipy.stats")
    one, other = result("a", 0.9, 0.8, 0.85), result("b", 0.7, 0.7, 0.76, 0.72)
    found = difference(one, other)
    gaps = one.each.mean(0) - other.each.mean(0)
    parts = float(gaps.var() / 100), np.var([0.9, 0.8, 0.85], ddof=1) / 3, np.var([0.7, 0.7, 0.76, 0.72], ddof=1) / 4
    assert found.seeded
    assert found.gap == pytest.approx(0.85 - 0.72)
    assert found.error == pytest.approx(np.sqrt(sum(parts)))
    freedom = sum(parts) ** 2 / sum(part**2 / n for part, n in zip(parts, (99, 2, 3), strict=True))
    assert found.bound == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.03)
