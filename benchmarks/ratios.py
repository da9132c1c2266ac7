"""Ratios of the times of two sides, of which one may not have arrived, and their geometric mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from goals import Goal
from measurements import Measurement

Bound = Literal["", "more than", "less than"]


@dataclass(frozen=True)
class Ratio:
    """The plain loop's time over ours: `value`, or more or less than it."""

    value: float
    bound: Bound = ""

    def __str__(self) -> str:
        return f"{self.bound} {self.value:.2f}".strip()


@dataclass(frozen=True)
class Comparison:
    """The measurements of one goal: icecore's, and those of the plain loop at each rate."""

    goal: Goal
    ours: Measurement
    plain: Sequence[Measurement]

    @property
    def best_plain(self) -> Measurement | None:
        """The rate that reached the target first, or None if none did."""
        return min((each for each in self.plain if each.reached), key=lambda each: each.seconds, default=None)

    @property
    def plain_seconds(self) -> float:
        """Seconds until the best rate reached the target, or in which none of them did."""
        best = self.best_plain
        return best.seconds if best is not None else min(each.seconds for each in self.plain)

    @property
    def ratio(self) -> Ratio | None:
        """The plain loop's seconds over ours: a bound if one side did not arrive, None if neither did."""
        value = self.plain_seconds / self.ours.seconds
        if self.best_plain is None:
            return Ratio(value, "more than") if self.ours.reached else None
        return Ratio(value, "" if self.ours.reached else "less than")


def geometric_mean(ratios: Sequence[Ratio | None]) -> Ratio | None:
    """The geometric mean, in which a bound counts as its value, so that the mean is such a bound too.

    It is None if a ratio is missing, or if there are bounds of both kinds.
    """
    known = [ratio for ratio in ratios if ratio is not None]
    bounds: set[Bound] = {ratio.bound for ratio in known if ratio.bound}
    if len(known) < len(ratios) or len(bounds) > 1:
        return None
    mean = math.exp(sum(math.log(ratio.value) for ratio in known) / len(known))
    return Ratio(mean, bounds.pop() if bounds else "")
