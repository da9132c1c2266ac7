"""Effects: the difference between two rows with its 95 % interval, and what can be said about a claim from it.

The rule, which docs/method.md has in words, is `decide`.
"""

import enum
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from icecore.core.student_t import student_t_quantile, welch_degrees
from icecore.paper.claims import Direction

#: of the intervals
CONFIDENCE = 0.95
#: the chance with which an effect of the smallest size would have been found
POWER = 0.8
#: seeds of a row, and draws of a random body, without which there is no error
MIN_SEEDS = 2
#: standard errors by which a row must be above an answer without training to count as better
CLEAR_ERRORS = 2.0


class Decision(enum.StrEnum):
    """What can be said of a claim, on one task or on all of them."""

    HOLDS = "holds"
    FAILS = "does not hold"
    DIFFERS = "differs between tasks"
    UNSEEN = "too small to see"
    NOTHING_LEARNED = "nothing was learned"
    CEILING = "too easy to tell"
    TOO_FEW = "not enough seeds"
    LEFT_OUT = "not comparable"
    NOT_RUN = "not run"

    @property
    def counts(self) -> bool:
        """Whether such a task counts in the verdict on the whole claim."""
        return self in (Decision.HOLDS, Decision.FAILS, Decision.UNSEEN)


@dataclass(frozen=True)
class Sample:
    """The number of a row with its errors.

    errors  (variance of the mean, degrees of freedom) of each source of error
    """

    mean: float
    seeds: int
    errors: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, values: Sequence[float], test_examples: int | None = None) -> "Sample":
        """The mean of one value, in percent or not, for each seed, and its errors.

        The seeds' error is that of their mean. All seeds are scored on the same `test_examples`, so the error of
        these does not shrink with seeds. It is that of a share of right answers, which is the largest error that
        scores between 0 and 100 % can have. None: the values are no scores of examples.
        """
        mean, seeds = statistics.fmean(values), len(values)
        errors = [(statistics.variance(values) / seeds, seeds - 1.0)] if seeds > 1 else []
        if test_examples:
            # two right and two wrong answers more (Agresti and Coull 1998): all right is no proof of no error
            count = test_examples + 4
            share = (test_examples * min(max(mean, 0.0), 100.0) / 100 + 2) / count
            errors.append((1e4 * share * (1 - share) / count, math.inf))
        return cls(mean, seeds, tuple(errors))

    def is_better_than(self, answer: float) -> bool:
        """Whether the mean is clearly above the number of an answer that needs no training."""
        return self.mean - CLEAR_ERRORS * self.error > answer

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return math.sqrt(sum(variance for variance, _ in self.errors))


@dataclass(frozen=True)
class Effect:
    """An effect with its 95 % interval, in percentage points or as a ratio.

    smallest  the smallest true effect that these runs would have told apart from none in four of five cases
    """

    value: float
    low: float
    high: float
    smallest: float


@dataclass(frozen=True)
class Contrast:
    """A sum of samples with factors, such as a difference, or the mean of several differences.

    terms  (factor, sample) by the cell that a sample is of, so that a cell in two differences is not counted as two
    """

    terms: Mapping[Hashable, tuple[float, Sample]]

    @classmethod
    def difference(cls, first: tuple[Hashable, Sample], second: tuple[Hashable, Sample]) -> "Contrast":
        """The first sample minus the second, each given with its cell."""
        return cls({first[0]: (1.0, first[1]), second[0]: (-1.0, second[1])})

    @classmethod
    def mean(cls, contrasts: Sequence["Contrast"]) -> "Contrast":
        """The mean of several contrasts."""
        terms: dict[Hashable, tuple[float, Sample]] = {}
        for cell, (factor, sample) in (item for contrast in contrasts for item in contrast.terms.items()):
            terms[cell] = (terms.get(cell, (0.0, sample))[0] + factor / len(contrasts), sample)
        return cls(terms)

    @property
    def effect(self) -> Effect:
        """The value with its interval by Welch's method: errors are added, and their degrees of freedom combined."""
        value = sum(factor * sample.mean for factor, sample in self.terms.values())
        errors = [
            (factor**2 * variance, degrees)
            for factor, sample in self.terms.values()
            for variance, degrees in sample.errors
            if factor and variance
        ]
        total = sum(variance for variance, _ in errors)
        if not total:
            return Effect(value, value, value, 0.0)
        degrees = welch_degrees([variance for variance, _ in errors], [each for _, each in errors])
        error, width = math.sqrt(total), student_t_quantile((1 + CONFIDENCE) / 2, degrees)
        found = width + student_t_quantile(POWER, degrees)
        return Effect(value, value - width * error, value + width * error, found * error)


def is_clear_difference(first: Sample, second: Sample) -> bool:
    """Whether the 95 % interval of the difference excludes 0. Without several seeds of both there is none."""
    if min(first.seeds, second.seeds) < MIN_SEEDS:
        return False
    effect = Contrast.difference(("first", first), ("second", second)).effect
    return effect.low > 0 or effect.high < 0


def decide(effect: Effect, direction: Direction, margin: float) -> tuple[Decision, float]:
    """What an effect says about a claim, and how large the claimed or denied difference can still be.

    "better" holds if the interval is above 0 and the effect at least `margin`. It does not hold if the whole interval
    is below `margin`. Otherwise the difference is too small to see: less than the upper end of the interval.
    "as good" is the denial of "the other row is better", by the same rule: it holds if the whole interval is above
    -`margin`, and does not hold if the interval is below 0 and the effect -`margin` or less.
    """
    if direction == "as good":
        opposite = Effect(-effect.value, -effect.high, -effect.low, effect.smallest)
        decision, bound = decide(opposite, "better", margin)
        return {Decision.HOLDS: Decision.FAILS, Decision.FAILS: Decision.HOLDS}.get(decision, decision), bound
    if effect.low > 0 and effect.value >= margin:
        return Decision.HOLDS, effect.high
    if effect.high < margin:
        return Decision.FAILS, effect.high
    return Decision.UNSEEN, effect.high
