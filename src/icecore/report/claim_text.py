"""Verdicts in words and numbers, as the terminal and docs/reproducing.md show them."""

from collections import Counter
from collections.abc import Sequence

from icecore.core.text import approximate_duration, pluralize
from icecore.paper.claims import Measure
from icecore.report.effects import Decision, Effect
from icecore.report.task_verdicts import TaskVerdict
from icecore.report.verdicts import Verdict

#: what follows a number in a sentence
UNITS: dict[Measure, str] = {"accuracy": " points", "attention": " points", "examples": " times"}
#: columns of a table of tasks
TASK_COLUMNS = ("task", "numbers", "effect", "95 % interval", "smallest", "published", "verdict")


def effect_text(value: float, measure: Measure) -> str:
    """An effect as a signed number of points, or as a ratio of examples.

    >>> effect_text(3.14, "accuracy"), effect_text(1.976, "examples"), effect_text(40.0, "examples")
    ('+3.1', '1.98', '40')
    """
    if measure == "examples":
        return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def smallest_text(effect: Effect, measure: Measure) -> str:
    """The smallest effect that would have shown, without a sign."""
    return effect_text(effect.smallest, measure).removeprefix("+")


def interval_text(effect: Effect, measure: Measure) -> str:
    """The ends of an interval."""
    return f"{effect_text(effect.low, measure)} to {effect_text(effect.high, measure)}"


def number_of_row(value: float, measure: Measure) -> str:
    """The number of a row: percent, or examples."""
    return f"{value:,.0f}" if measure == "examples" else f"{value:.1f}"


def task_cells(task: TaskVerdict, measure: Measure) -> list[str]:
    """A task's line in a table with `TASK_COLUMNS`."""
    effect = task.effect
    numbers = ""
    if task.first is not None and task.second is not None:
        numbers = f"{number_of_row(task.first, measure)} / {number_of_row(task.second, measure)}"
    return [
        task.name,
        numbers,
        "" if effect is None else effect_text(effect.value, measure),
        "" if effect is None else interval_text(effect, measure),
        "" if effect is None else smallest_text(effect, measure),
        "" if task.published is None else effect_text(task.published, measure),
        task.text,
    ]


def tasks_that_ran(verdict: Verdict) -> list[TaskVerdict]:
    """The tasks of a claim that have runs of both rows."""
    return [task for task in verdict.tasks if task.decision is not Decision.NOT_RUN]


def mean_text(verdict: Verdict) -> str:
    """The mean effect with its interval and the smallest one that would have shown; empty if no task counts."""
    effect, measure = verdict.effect, verdict.claim.measure
    if effect is None:
        return ""
    unit, count = UNITS[measure], sum(task.counts for task in verdict.tasks)
    mean = f" on the average of {pluralize(count, 'comparison')}" * (count > 1)
    return (
        f"Effect{mean}: {effect_text(effect.value, measure)}{unit} (95 % interval {interval_text(effect, measure)}). "
        f"One of {smallest_text(effect, measure)}{unit} would have shown."
    )


def origin_of(verdict: Verdict) -> str:
    """Where the claim is made, and which results decide it."""
    results = f"; budget {verdict.budget}, body {verdict.body}" if tasks_that_ran(verdict) else ""
    return f"{verdict.claim.source}{results}"


def missing_text(verdict: Verdict) -> str:
    """Which comparisons were not run and what they would cost; empty if none, or if the verdict says so itself."""
    tasks = [task for task in verdict.tasks if task.decision is Decision.NOT_RUN]
    if not tasks or verdict.decision is Decision.NOT_RUN:
        return ""
    cost = "" if verdict.seconds is None else f" (would cost {approximate_duration(verdict.seconds)})"
    return f"Not run: {verdict.name_tasks(tasks)}{cost}."


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many claims hold, do not hold, and so on."""
    counts = Counter(verdict.decision for verdict in verdicts if verdict.is_main)
    parts = [f"{decision} {counts[decision]}" for decision in Decision if counts[decision]]
    return f"Verdicts on {pluralize(sum(counts.values()), 'claim')}: {'; '.join(parts)}."
