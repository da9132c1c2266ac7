"""Racing: successive halving of the learning rates of a sweep inside its pack.

At a few rungs, the learning rates that are behind on validation stop, all their seeds together. Runs of a pack do not
influence each other, so a run that goes on is the same as without a race.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from icecore.core.config import RunConfig
from icecore.core.text import list_in_words
from icecore.training.run_progress import RunProgress
from icecore.training.run_summary import BEHIND, DIVERGED


@dataclass(frozen=True)
class Rung:
    """After this share of the steps, only the `keep` best learning rates go on."""

    share: Fraction
    keep: int


# Chosen by a simulation on 99 finished sweeps of this project: the rate that wins the race is on average 1.0 points of
# accuracy below the one that the whole sweep chooses, and five rates cost 2.05 single runs. In 60 sweeps of three or
# four rates with their curves in `results/`, the loss is 1.3 points on validation and 0.8 on test (at most 20, where a
# rate starts slowly and wins in the end), by the metric of the rung as by the best one so far. The latter is used,
# because it is what chooses among finished runs, and because a run that stopped early has no other one.
RUNGS = (Rung(Fraction(1, 10), 3), Rung(Fraction(1, 4), 2), Rung(Fraction(3, 5), 1))


@dataclass(frozen=True)
class RateStanding:
    """What a learning rate has reached by a rung, over its seeds in the pack.

    metric     mean of the best validation metrics so far; None if a seed has none or diverged
    best_step  mean step of these
    """

    lr: float
    metric: float | None
    best_step: float


@dataclass(frozen=True)
class RungDecision:
    """The learning rates in a race at a rung, best first: those that go on, and those that stop."""

    step: int
    share: Fraction
    ahead: Sequence[RateStanding]
    behind: Sequence[RateStanding]

    def describe(self) -> str:
        """The decision in one sentence."""
        ahead, behind = ([f"{rate.lr:g}" for rate in rates] for rates in (self.ahead, self.behind))
        what, go = ("learning rates", "go") if len(ahead) > 1 else ("learning rate", "goes")
        return (
            f"Race at step {self.step:,} ({self.share} of the steps): {what} {list_in_words(ahead)} {go} on, "
            f"{list_in_words(behind)} {'stop' if len(behind) > 1 else 'stops'}."
        )


def rung_at(config: RunConfig, step: float, previous: float | None = None) -> Rung | None:
    """The rung that is decided at the validation after `step` steps, or None.

    previous  the position before, if a time box makes the schedule go on by more than a step at once

    A rung is decided at the first validation at or after its share of the steps, the strictest one if these are
    several, and none at the last step.
    """
    if step >= config.steps:
        return None
    previous = step - 1 if previous is None else previous
    decided = [rung for rung in RUNGS if previous < _decision_step(config, rung) <= step]
    return min(decided, key=lambda rung: rung.keep, default=None)


def _decision_step(config: RunConfig, rung: Rung) -> int:
    """The step of the first validation at or after a rung's share of the steps."""
    earliest = math.ceil(rung.share * config.steps)
    return min(config.steps, math.ceil(Fraction(earliest, config.eval_every)) * config.eval_every)


def has_rung(config: RunConfig, rates: int) -> bool:
    """Whether a race between `rates` learning rates stops one before the last step."""
    return any(rung.keep < rates and _decision_step(config, rung) < config.steps for rung in RUNGS)


def race_cost(rates: int) -> float:
    """The training steps of a race between `rates` learning rates, relative to those of one rate.

    >>> race_cost(1), race_cost(2), race_cost(5)
    (1.0, 1.6, 2.05)
    """
    shares = [Fraction(0), *(rung.share for rung in RUNGS), Fraction(1)]
    left = [rates, *(min(rates, rung.keep) for rung in RUNGS)]
    return float(sum((end - start) * n for (start, end), n in zip(itertools.pairwise(shares), left, strict=True)))


def decide_rung(step: int, rung: Rung, runs: Sequence[tuple[float, RunProgress]]) -> RungDecision | None:
    """The decision of a rung, given learning rate and progress of each run in the pack; None if no run stops.

    The order is that of `summarize_runs`: the mean over seeds of the best validation metric, then the earlier mean
    step of it, then the smaller rate. A rate with a diverged seed is behind all others.
    """
    by_rate: dict[float, list[RunProgress]] = {}
    for lr, progress in runs:
        by_rate.setdefault(lr, []).append(progress)
    racing = {
        lr: seeds
        for lr, seeds in by_rate.items()
        if not any(seed.stopped == BEHIND for seed in seeds) and not all(seed.stopped == DIVERGED for seed in seeds)
    }
    standings = sorted((_standing(lr, seeds) for lr, seeds in racing.items()), key=_rank)
    ahead, behind = standings[: rung.keep], standings[rung.keep :]
    behind = [rate for rate in behind if any(seed.stopped is None for seed in racing[rate.lr])]
    return RungDecision(step, rung.share, ahead, behind) if behind else None


def _standing(lr: float, seeds: Sequence[RunProgress]) -> RateStanding:
    steps = sum(seed.best_step for seed in seeds) / len(seeds)
    best = [seed.best_metric for seed in seeds if seed.best_metric is not None and seed.stopped != DIVERGED]
    return RateStanding(lr, math.fsum(best) / len(best) if len(best) == len(seeds) else None, steps)


def _rank(rate: RateStanding) -> tuple[bool, float, float, float]:
    return rate.metric is None, -(rate.metric or 0.0), rate.best_step, rate.lr
