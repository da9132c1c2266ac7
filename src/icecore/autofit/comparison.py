"""Comparison of a program with its controls: paired differences, Welch's t test, and the verdict in sentences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icecore.autofit.fit_result import ModelResult
from icecore.core.student_t import student_t_quantile, welch_degrees
from icecore.core.text import metric_text, pluralize

#: name of the control that is the same body without what it has learned
RANDOM_BODY = "the same body, random"
#: name of the control that has no body, and how to fit one
NO_BODY_CONTROL, NO_BODY_OPTION = "no body", "--backbone none"
#: probability that a difference that is due to chance alone is called clear
SIGNIFICANCE = 0.05
#: number of rows below which no standard error can be trusted
MIN_ROWS_FOR_VERDICT = 10


@dataclass(frozen=True)
class Difference:
    """How far the mean metric of one model is above that of another.

    standard_error  of `gap`, from the choice of rows and, if `includes_seeds`, of seeds
    critical_value  the number of standard errors beyond which the difference is clear
    """

    gap: float
    standard_error: float
    critical_value: float
    includes_seeds: bool

    @property
    def sign(self) -> int:
        """1 if the first model is clearly better, -1 if it is clearly worse, 0 if chance may explain the difference."""
        return int(np.sign(self.gap)) if abs(self.gap) > self.critical_value * self.standard_error else 0


def compare(first: ModelResult, second: ModelResult) -> Difference:
    """Compare two results by Welch's t test, paired over rows; the variance over seeds is added if both know it.

    The degrees of freedom are those of Welch and Satterthwaite.
    """
    gaps = first.scores_by_seed.mean(0) - second.scores_by_seed.mean(0)  # (N,)
    N = len(gaps)
    variances = [float(gaps.var() / N) if N > 1 else math.inf]
    degrees = [N - 1]
    includes_seeds = first.variance_of_mean is not None and second.variance_of_mean is not None
    if includes_seeds:
        for result in (first, second):
            variances.append(result.variance_of_mean or 0.0)
            degrees.append(len(result.scores_by_seed) - 1)
    total = sum(variances)
    critical = student_t_quantile(1 - SIGNIFICANCE / 2, welch_degrees(variances, degrees))
    return Difference(float(gaps.mean()), math.sqrt(total), critical, includes_seeds)


def verdict(
    result: ModelResult, controls: Sequence[ModelResult], metric_name: str = "accuracy", split: str = "test"
) -> str:
    """Say in a few sentences what to use, whether the pretrained body helped, and what the standard errors include.

    The first line is a recommendation in plain words, if there is a simple control.
    """
    N = len(result.scores)
    if N < MIN_ROWS_FOR_VERDICT:
        rows, verb = pluralize(N, f"{split} row"), "is" if N == 1 else "are"
        return f"{rows} {verb} too few for a verdict."
    random_body = next((control for control in controls if control.name == RANDOM_BODY), None)
    simple = [control for control in controls if control is not random_body]
    best_simple = max(simple, key=lambda control: control.mean_metric, default=None)
    rivals = [control for control in (best_simple, random_body) if control is not None]
    differences = {rival.name: compare(result, rival) for rival in rivals}
    if not all(math.isfinite(d.gap) and math.isfinite(d.standard_error) for d in differences.values()):
        return "No verdict is possible: some scores are not finite."
    includes_seeds = all(d.includes_seeds for d in differences.values())
    rows = pluralize(N, f"{split} row")
    sentences: list[str] = []
    if best_simple is not None:
        sentences.append(_recommend(result, best_simple, differences[best_simple.name], metric_name, rows))
    sentences += _say_if_undertrained(result)
    if random_body is not None:
        sentences.append(_compare_with_random_body(result, differences[RANDOM_BODY], metric_name, rows, includes_seeds))
    if includes_seeds:
        seeds = pluralize(len(result.scores_by_seed), "seed")
        sentences.append(f"All metrics are means over {seeds}; the standard errors (±) include seeds and {split} rows.")
    elif differences:
        sentences.append(
            f"The standard errors (±) include {split} rows only. Trainings with other seeds differ too, often by as "
            "much; --seeds 0,1,2 includes that."
        )
    first, *others = sentences
    return "\n".join(filter(None, (first, " ".join(others))))


def _recommend(result: ModelResult, simple: ModelResult, difference: Difference, metric_name: str, rows: str) -> str:
    """What to use: the program or the best simple control. `simple` needs no body that was pretrained."""
    ours, theirs = (metric_text(each.mean_metric, metric_name) for each in (result, simple))
    amount = _amount(difference, metric_name)
    theirs = f"{theirs} in {max(1, round(simple.seconds))} s"
    if difference.sign > 0:
        return f"Use this program: it has {ours}, and the best simple model ({simple.name}) {theirs}: {amount} less."
    better = f"{simple.name} ({NO_BODY_OPTION})" if simple.name == NO_BODY_CONTROL else simple.name
    if difference.sign < 0:
        return f"Use {better}: it has {theirs}, and this program {ours}: {amount} less."
    if difference.gap > 0:
        return (
            f"Use either: this program has {ours}, and the best simple model ({simple.name}) {theirs}. {rows} cannot "
            f"tell such a difference from chance ({amount})."
        )
    as_good = "the same" if difference.gap == 0 else ours
    return (
        f"Use {better}: it has {theirs}, and this program {as_good}, which costs more. {rows} show no clear "
        f"difference ({amount})."
    )


def _say_if_undertrained(result: ModelResult) -> list[str]:
    """A sentence if the time was too short for the training; otherwise none."""
    if not result.is_undertrained:
        return []
    reason = "validation was still rising" if result.best_step else "its start was still better"
    return [
        f"This program is undertrained: the time was over after {pluralize(result.steps or 0, 'step')}, and {reason}. "
        "More --minutes may change what is said here."
    ]


def _compare_with_random_body(
    result: ModelResult, difference: Difference, metric_name: str, rows: str, includes_seeds: bool
) -> str:
    amount, rival = _amount(difference, metric_name), "the same body with random weights"
    scope = "" if includes_seeds else "In this one training of each, "
    if len(result.scores_by_seed) > 1 and not includes_seeds:
        scope = "In these trainings, "
    if difference.sign == 0:
        text = f"the pretrained body made no difference that {rows} could show: {amount} against {rival}."
    else:
        effect, side = ("helped:", "above") if difference.sign > 0 else ("hurt:", "below")
        text = f"the pretrained body {effect if includes_seeds else 'is'} {amount} {side} {rival}."
    return scope + (text if scope else text[:1].upper() + text[1:])


def _amount(difference: Difference, metric_name: str) -> str:
    """The difference with its standard error; without a sign if the sentence says which model is better."""
    gap, error = difference.gap, difference.standard_error
    sign = "" if difference.sign else "+"
    gap = abs(gap) if difference.sign else gap
    if metric_name == "r2":
        return f"{gap:{sign}.3f} ± {error:.3f} of R²"
    return f"{100 * gap:{sign}.1f} ± {100 * error:.1f} points"
