"""Comparison with controls: what one training and several allow to say, against numbers from elsewhere."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from icecore.autofit.comparison import Difference, compare, verdict
from icecore.autofit.fit_result import ModelResult


def result(name: str, *accuracies: float, N: int = 100, generator: np.random.Generator | None = None) -> ModelResult:
    """A result with one accuracy for each seed: the first rows are right, or random ones if there is a generator."""

    def order() -> torch.Tensor:
        return torch.arange(N) if generator is None else torch.from_numpy(generator.permutation(N))

    scores = torch.stack([order().lt(round(accuracy * N)).float() for accuracy in accuracies])
    # a baseline is the same for every seed
    seed_scores = None if name == "baseline" else scores
    return ModelResult(name, scores[0], 0.0, 0.0, seed_scores=seed_scores, seeds=tuple(range(len(accuracies))))


def random_body(*accuracies: float, N: int = 100, generator: np.random.Generator | None = None) -> ModelResult:
    return result("the same body, random", *accuracies, N=N, generator=generator)


# ------------------------------------------------------------------------------------------- the statistics


def test_controls_are_compared_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    # a two-sided 5 % point of Student's t as printed in the usual tables (NIST's e-Handbook, 1.3.6.7.2)
    assert compare(result("a", 0.9, N=31), result("b", 0.5, N=31)).critical_value == pytest.approx(2.042, abs=5e-4)


def test_differences_are_paired() -> None:
    # 10 of 100 rows differ, all in one direction: variance 0.1 * 0.9 * 100 / 99 of a row's difference
    difference = compare(result("a", 0.9), result("b", 0.8))
    assert difference.gap == pytest.approx(0.1)
    assert difference.standard_error == pytest.approx(0.0301511, rel=1e-5)
    assert difference.critical_value == pytest.approx(1.9842, abs=1e-4)  # Student's t of 99 degrees of freedom
    assert difference.sign == 1
    equal = compare(result("a", 0.9), result("a", 0.9))
    assert equal == Difference(0.0, 0.0, pytest.approx(1.95996, abs=1e-5), False)  # type: ignore[arg-type]
    assert equal.sign == 0


def test_the_test_over_seeds_is_welchs() -> None:
    stats = pytest.importorskip("scipy.stats")
    # in each pair of seeds, as many rows are right, so that rows add nothing to the variance over seeds
    first, second = (0.9, 0.8, 0.85), (0.7, 0.7, 0.76, 0.72)
    N = 10_000
    difference = compare(result("a", *first, N=N), result("b", *second, N=N))
    welch = stats.ttest_ind(first, second, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert difference.includes_seeds
    assert difference.gap == pytest.approx(0.13)
    half = difference.critical_value * difference.standard_error
    assert half == pytest.approx((high - low) / 2, rel=0.02)


def test_rows_and_seeds_both_add_to_the_standard_error() -> None:
    # how many of the seeds are right on each row follows from the accuracies, as the first rows are the right ones
    first, second = result("a", 0.9, 0.8, 0.85), result("b", 0.7, 0.7, 0.76, 0.72)
    difference = compare(first, second)
    gaps = np.zeros(100)
    gaps[70:72], gaps[72:76], gaps[76:80], gaps[80:85], gaps[85:90] = 1 - 1 / 2, 1 - 1 / 4, 1, 2 / 3, 1 / 3
    rows, seeds_first, seeds_second = np.var(gaps, ddof=1) / 100, 0.0025 / 3, 0.0008 / 4
    assert difference.standard_error == pytest.approx(np.sqrt(rows + seeds_first + seeds_second))
    # by Welch and Satterthwaite there are 9.08 degrees of freedom; the published value is 2.262 for 9, and 2.228 for 10
    assert 2.255 < difference.critical_value < 2.262


def test_false_alarms_are_as_rare_as_the_significance_level() -> None:
    generator = np.random.default_rng(0)

    def share_of_clear_differences(gap: float) -> float:
        """How often means that are `gap` apart are told apart, if trainings with other seeds spread by 1.6 points."""
        signs = []
        for _ in range(200):
            first, second = (generator.normal(mean, 0.016, 3) for mean in (0.6 + gap, 0.6))
            pretrained = result("minilm", *first, N=2000, generator=generator)
            signs.append(compare(pretrained, random_body(*second, N=2000, generator=generator)).sign)
        return float(np.mean(signs)) if gap else float(np.mean(np.abs(signs)))

    assert share_of_clear_differences(0.0) < 0.08
    assert share_of_clear_differences(0.1) > 0.95


def test_false_alarms_over_rows_are_five_percent() -> None:
    generator = np.random.default_rng(1)

    def false_alarm() -> bool:
        scores = torch.from_numpy(generator.random((2, 12)))
        first, second = (ModelResult(name, row, 0.0, 0.0) for name, row in zip("ab", scores, strict=True))
        return compare(first, second).sign != 0

    rate = np.mean([false_alarm() for _ in range(2000)])
    # the standard error of a rate of 5 % in 2,000 trials is 0.5 %; with the normal's 1.96 it would be 7.6 %
    assert 0.035 < rate < 0.065


# ---------------------------------------------------------------------------------------------- the verdict

ROWS_ONLY = (
    "The standard errors (±) include test rows only. Trainings with other seeds differ too, often by as much; "
    "--seeds 0,1,2 includes that."
)


@pytest.mark.parametrize(
    ("accuracy", "random", "no_body", "sentences"),
    [
        (
            0.9,
            0.6,
            0.5,
            [
                "Use this program: it has 90.0 %, and the best simple model (no body) 50.0 % in 1 s: 40.0 ± 4.9 points "
                "less.",
                "the pretrained body is 30.0 ± 4.6 points above the same body with random weights.",
            ],
        ),
        (
            0.6,
            0.9,
            0.5,
            [
                "Use this program: it has 60.0 %",
                "the pretrained body is 30.0 ± 4.6 points below the same body with random weights.",
            ],
        ),
        (
            0.6,
            0.6,
            0.61,
            [
                "Use no body (--backbone none): it has 61.0 % in 1 s, and this program 60.0 %, which costs more. "
                "100 test rows show no clear difference (-1.0 ± 1.0 points).",
                "the pretrained body made no difference that 100 test rows could show: +0.0 ± 0.0 points against",
            ],
        ),
        (
            0.61,
            0.6,
            0.6,
            [
                "Use either: this program has 61.0 %, and the best simple model (no body) 60.0 % in 1 s. 100 test rows "
                "cannot tell such a difference from chance (+1.0 ± 1.0 points)."
            ],
        ),
        (
            0.6,
            0.5,
            0.6,
            ["Use no body (--backbone none): it has 60.0 % in 1 s, and this program the same, which costs more."],
        ),
        (
            0.6,
            0.5,
            0.95,
            ["Use no body (--backbone none): it has 95.0 % in 1 s, and this program 60.0 %: 35.0 ± 4.8 points less."],
        ),
    ],
)
def test_with_one_seed_only_these_trainings_are_compared(
    accuracy: float, random: float, no_body: float, sentences: list[str]
) -> None:
    text = verdict(result("minilm", accuracy), [random_body(random), result("no body", no_body)])
    assert text.startswith("Use ")
    assert "In this one training of each, the pretrained body " in text
    for sentence in (*sentences, ROWS_ONLY):
        assert sentence in text
    for claim in ("helped", "hurt"):
        assert claim not in text


@pytest.mark.parametrize(
    ("accuracy", "random", "no_body", "sentences"),
    [
        (0.9, 0.6, 0.5, ["The pretrained body helped: 30.0", "Use this program"]),
        (0.6, 0.9, 0.5, ["The pretrained body hurt: 30.0 ± 4.6 points below", "Use this program"]),
        (0.6, 0.5, 0.95, ["helped: 10.0", "Use no body (--backbone none): it has 95.0 %"]),
    ],
)
def test_with_several_seeds_a_difference_is_due_to_the_body(
    accuracy: float, random: float, no_body: float, sentences: list[str]
) -> None:
    three = [[mean - 0.01, mean, mean + 0.01] for mean in (accuracy, random, no_body)]
    text = verdict(result("minilm", *three[0]), [random_body(*three[1]), result("no body", *three[2])])
    for sentence in (*sentences, "All metrics are means over 3 seeds; the standard errors (±) include seeds and test"):
        assert sentence in text
    assert "In th" not in text


@pytest.mark.parametrize(
    ("steps", "best_step", "is_cut_off", "reason"),
    [
        (40, 40, True, "the time was over after 40 steps, and validation was still rising."),
        (40, 0, True, "the time was over after 40 steps, and its start was still better."),
        (4000, 3900, True, "the time was over after 4,000 steps, and validation was still rising."),
        (4000, 2000, True, None),
        (4000, 4000, False, None),
        (None, None, False, None),
    ],
)
def test_an_undertrained_program_is_called_so(
    steps: int | None, best_step: int | None, is_cut_off: bool, reason: str | None
) -> None:
    ours = replace(result("minilm", 0.6), steps=steps, best_step=best_step, is_cut_off=is_cut_off)
    text = verdict(ours, [random_body(0.6), result("no body", 0.9)])
    assert ("undertrained" in text) == (reason is not None)
    assert (reason or "") in text
    assert text.startswith("Use no body")


def test_a_body_is_not_called_better_than_itself() -> None:
    # trainings of one random body that differ in the seed alone, on 2,000 test rows, as if they were of two bodies
    accuracies, same_body = (0.622, 0.588, 0.611), (0.586, 0.587)
    first, second = result("minilm", *accuracies, N=2000), random_body(*same_body, N=2000)
    assert "made no difference that 2,000 test rows could show" in verdict(first, [second])
    # by the choice of rows alone, they are far apart, and so are their best trainings
    gaps = first.scores_by_seed.mean(0) - second.scores_by_seed.mean(0)
    assert float(gaps.mean()) > 5 * float(gaps.std() / len(gaps) ** 0.5)
    single = compare(result("minilm", max(accuracies), N=2000), random_body(max(same_body), N=2000))
    assert (single.sign, single.includes_seeds) == (1, False)


def test_a_baseline_needs_no_seeds() -> None:
    text = verdict(result("minilm", 0.6, 0.61, 0.59), [result("baseline", 0.5)])
    assert text.startswith("Use this program: it has 60.0 %, and the best simple model (baseline) 50.0 % in 1 s: 10.0")
    assert "means over 3 seeds" in text
    assert ROWS_ONLY in verdict(result("minilm", 0.6), [result("baseline", 0.5)])
    # if the seeds of one side are known and those of the other are not, the difference does not include them
    assert ROWS_ONLY in verdict(result("minilm", 0.6, 0.61, 0.59), [random_body(0.5), result("baseline", 0.5)])


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_few_rows_allow_no_verdict(seeds: int) -> None:
    def text(N: int, split: str = "test") -> str:
        controls = [random_body(*[0.0] * seeds, N=N), result("baseline", 1.0, N=N)]
        return verdict(result("minilm", *[1.0] * seeds, N=N), controls, split=split)

    assert text(1) == "1 test row is too few for a verdict."
    assert text(9) == "9 test rows are too few for a verdict."
    assert "too few" not in text(10)
    assert "validation rows" in text(10, "validation")


def test_scores_that_are_not_finite_allow_no_verdict() -> None:
    infinite = replace(result("minilm", 0.5), seed_scores=torch.full((1, 100), torch.inf))
    assert verdict(infinite, [random_body(0.5)]) == "No verdict is possible: some scores are not finite."


def test_a_verdict_on_numbers_uses_their_metric() -> None:
    text = verdict(result("minilm", 0.6, 0.6), [result("baseline", 0.5)], "r2")
    assert text.startswith("Use this program: it has R² 0.600, and the best simple model (baseline) R² 0.500 in 1 s")
    assert "0.100 ± 0.030 of R² less." in text
