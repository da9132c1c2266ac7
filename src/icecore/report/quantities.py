"""Quantities: what the cells of a table show, and how it is read from a run's record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from icecore.experiments.results import Curve, RunRecord

#: a run has converged at its first validation within one percentage point of its best one
CONVERGENCE_MARGIN = 0.01

#: a run's value, and whether it is only a lower bound; None if the run has no value
Reading = tuple[float, bool] | None


@dataclass(frozen=True)
class Quantity:
    """What the cells of a table show.

    unit   "%" or "steps"
    parts  for each number of a cell its name and the function that reads it from a run, in `unit`
    """

    caption: str
    unit: str
    parts: Mapping[str, Callable[[RunRecord], Reading]]


def convergence_step(curve: Curve) -> Reading:
    """First step at which a curve is within one point of its best metric.

    It is a lower bound if the best metric is the last one and below 1, because the curve may rise further.
    """
    if not curve:
        return None
    best = max(metric for _, metric in curve)
    step = next(step for step, metric in curve if metric >= best - CONVERGENCE_MARGIN)
    is_rising = next(step for step, metric in curve if metric == best) == curve[-1][0] and best < 1
    return float(step), is_rising


def _percent(value: float | None) -> Reading:
    return None if value is None else (100 * value, False)


def _attention(key: str) -> Callable[[RunRecord], Reading]:
    return lambda record: _percent(record.extra.get("attention", {}).get(key))


QUANTITIES: Mapping[str, Quantity] = {
    "test": Quantity("test accuracy in %", "%", {"test": lambda record: _percent(record.summary.test_metric)}),
    "steps": Quantity("steps to converge", "steps", {"steps": lambda record: convergence_step(record.validation)}),
    "fit": Quantity(
        "train / test accuracy in %",
        "%",
        {
            "train": lambda record: _percent(record.summary.train_metric),
            "test": lambda record: _percent(record.summary.test_metric),
        },
    ),
    "attention": Quantity(
        # untrained bodies already attend to the query's own position, so the bit of the first string is shown as well
        "share of attention on needed bits in %: best head on both / best head on the first string's / uniform on both",
        "%",
        {"both": _attention("best"), "first": _attention("first_bit_best"), "uniform": _attention("uniform")},
    ),
}
