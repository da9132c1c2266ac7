"""How many training examples runs take to a level of accuracy, so that two rows can be compared by their speed."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from icecore.experiments.results import RunRecord
from icecore.report.effects import Sample

#: the level is this share of the final validation accuracy of the row that ends lower
SHARE_OF_FINAL = 0.9


@dataclass(frozen=True)
class ExampleCount:
    """Training examples to a level.

    is_first  the first validation was above the level already, so that the run needed fewer examples
    is_last   the level was not reached, so that the run needs more examples
    """

    examples: float
    is_first: bool = False
    is_last: bool = False


def final_accuracy(runs: Sequence[RunRecord]) -> float | None:
    """The mean over runs of their best validation accuracy; None if a run has no curve."""
    if not runs or not all(run.validation for run in runs):
        return None
    return statistics.fmean(max(metric for _, metric in run.validation) for run in runs)


def examples_to_level(run: RunRecord, level: float) -> ExampleCount:
    """When the validation curve of a run first reaches `level`; a straight line is drawn between validations."""
    size = run.summary.batch_size or 1
    (first_step, first), *_ = run.validation
    if first >= level:
        return ExampleCount(size * max(1, first_step), is_first=True)
    for (step, metric), (next_step, next_metric) in itertools.pairwise(run.validation):
        if next_metric >= level:
            return ExampleCount(size * (step + (next_step - step) * (level - metric) / (next_metric - metric)))
    return ExampleCount(size * run.validation[-1][0], is_last=True)


def speed_sample(counts: Sequence[ExampleCount]) -> Sample:
    """The mean logarithm of speed, 1 / examples, whose differences are logarithms of ratios of examples."""
    return Sample.of([-math.log(count.examples) for count in counts])
