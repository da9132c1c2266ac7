"""Verdicts on one task: two rows compared, or the reason why they cannot be."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from icecore.core.config import is_drawn
from icecore.core.text import approximate_duration, pluralize
from icecore.paper.claims import Claim, ComparedRows, Measure, RowPart
from icecore.paper.paper_tables import STUDIES
from icecore.paper.trivial_answers import TRIVIAL_ANSWERS, TrivialAnswer
from icecore.report.claim_records import ClaimCell, published_value, quantity_of
from icecore.report.effects import MIN_SEEDS, Contrast, Decision, Effect, Sample, decide
from icecore.report.example_counts import SHARE_OF_FINAL, ExampleCount, examples_to_level, final_accuracy, speed_sample
from icecore.report.record_index import Place
from icecore.training.run_summary import DIVERGED

#: of what a row is above an answer without training, the share by which another row that is as good may be behind
LARGEST_SHARE = 0.25


@dataclass(frozen=True)
class TaskVerdict:
    """What the results say about a claim on one task.

    name           the column, with the label of the compared rows if the claim compares several pairs
    first, second  the numbers of the two rows: percent, or examples; None without results
    effect         the first row minus the second in percentage points, or the second's examples over the first's; None
                   without enough results
    published      the same of the published numbers; None if there are none
    notes          (cell, sentence): what a reader must know about the runs
    counts         whether the task counts in the verdict on the whole claim
    contrast       the effect with its sources of error, from which means over tasks are made
    margin         what counted as a difference, in the unit of the contrast: points, or the logarithm of a ratio
    """

    name: str
    column: str
    label: str
    decision: Decision
    text: str
    first: float | None = None
    second: float | None = None
    effect: Effect | None = None
    published: float | None = None
    notes: tuple[tuple[str, str], ...] = ()
    counts: bool = False
    contrast: Contrast | None = None
    margin: float = 0.0


def compare_task(
    claim: Claim, rows: ComparedRows, column: str, cells: Mapping[Place, ClaimCell], cost: float | None
) -> TaskVerdict:
    """The verdict on one pair of rows on one task. `cost` is in seconds, of what is missing, None if unknown."""
    parts = (rows.first, rows.second)
    sides = [cells[part.study, part.row, column] for part in parts]
    name = f"{column} ({rows.label})" if rows.label else column
    marks = tuple(dict.fromkeys(mark for side in sides for mark in side.marks))
    base = TaskVerdict(
        name,
        column,
        rows.label,
        Decision.NOT_RUN,
        "",
        published=_published_effect(claim.measure, rows, column),
    )
    blank = _why_not(sides, cost)
    if blank is not None and blank[0] is Decision.NOT_RUN:
        return replace(base, text=blank[1])
    base = replace(base, notes=_notes(parts, sides, column, marks))
    if blank is not None:
        numbers = [_mean(claim.measure, part, side) for part, side in zip(parts, sides, strict=True)]
        base = replace(base, first=numbers[0], second=numbers[1])
        return replace(base, decision=blank[0], text=blank[1], counts=blank[0].counts and not marks)
    if claim.measure == "examples":
        verdict = _compare_examples(base, claim, rows, sides)
    else:
        verdict = _compare_scores(base, claim, rows, sides)
    return replace(verdict, counts=verdict.decision.counts and not marks)


def _why_not(sides: Sequence[ClaimCell], cost: float | None) -> tuple[Decision, str] | None:
    """The decision and its text if two rows cannot be compared; None if they can."""
    first, second = (side.cell for side in sides)
    if any(side.is_left_out for side in sides):
        return Decision.LEFT_OUT, "not comparable: the rows have different versions, data, precisions or settings"
    if first.state == DIVERGED and second.chosen:
        return Decision.FAILS, "does not hold: it diverges at every rate"
    if second.state == DIVERGED:
        return Decision.LEFT_OUT, "not comparable: the row to compare with diverges at every rate"
    if not first.chosen or not second.chosen:
        return Decision.NOT_RUN, not_run_text(cost, is_missing=any(cell.state == "missing" for cell in (first, second)))
    for runs in (first.chosen, second.chosen):
        seeds = len({run.summary.seed for run in runs})
        if seeds < MIN_SEEDS:
            return Decision.TOO_FEW, f"not enough seeds ({seeds}; at least {MIN_SEEDS} are needed)"
    for runs in (first.chosen, second.chosen):
        draws = len({run.config.get("body_seed", 0) for run in runs})
        if is_drawn(runs[0].summary.weights, runs[0].summary.backbone) and draws < MIN_SEEDS:
            return Decision.TOO_FEW, f"not enough random bodies ({draws}; at least {MIN_SEEDS} are needed)"
    return None


def not_run_text(cost: float | None, at_full: float | None = None, is_missing: bool = False) -> str:
    """That something was not run, why if weights or data are missing, and its cost.

    at_full  the cost at the largest budget of what this one has no body for, if that is known
    """
    reason = "weights or data are missing; " if is_missing else ""
    full = "" if at_full is None else approximate_duration(at_full)
    if cost is None:
        return (
            f"not run: {reason}this budget lacks a body{f'; at the budget full it would cost {full}' if full else ''}"
        )
    rest = f", but this budget lacks a body for the rest ({full} at the budget full)" if full else ""
    return f"not run: {reason}would cost {approximate_duration(cost)}{rest}"


def _notes(
    parts: Sequence[RowPart], sides: Sequence[ClaimCell], column: str, marks: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    notes = [
        (f"{part.label}, {column}", note)
        for part, side in zip(parts, sides, strict=True)
        for note in (*side.notes, *(side.cell.notes if side.cell.state != "missing" else ()))
    ]
    return tuple(dict.fromkeys([*((column, f"Does not count: {mark}.") for mark in marks), *notes]))


def _compare_scores(base: TaskVerdict, claim: Claim, rows: ComparedRows, sides: Sequence[ClaimCell]) -> TaskVerdict:
    """Compare accuracies or shares of attention."""
    parts = (rows.first, rows.second)
    samples = [_score_sample(claim.measure, part, side) for part, side in zip(parts, sides, strict=True)]
    if samples[0] is None or samples[1] is None:
        return replace(base, decision=Decision.LEFT_OUT, text="not comparable: the runs were not measured")
    first, second = samples[0], samples[1]
    base = replace(base, first=first.mean, second=second.mean)
    contrast = _contrast(parts, base.column, (first, second))
    base = replace(base, effect=contrast.effect, contrast=contrast)
    if claim.measure == "accuracy":
        trivial = TRIVIAL_ANSWERS.get(base.column.split()[0])
        if trivial is not None and not any(sample.is_better_than(100 * trivial.accuracy) for sample in (first, second)):
            text = f"nothing was learned: {_trivial_text(trivial)}"
            return replace(base, decision=Decision.NOTHING_LEARNED, text=text)
        if claim.direction == "better" and min(first.mean, second.mean) >= 100 - claim.margin:
            return replace(base, decision=Decision.CEILING, text="too easy to tell: both are near 100 %")
    return _decided(base, claim, contrast, _margin(claim, base.column, second.mean))


def _contrast(parts: Sequence[RowPart], column: str, samples: Sequence[Sample]) -> Contrast:
    """The first row minus the second on one task. Rows that other contrasts have too are known by what they are."""
    identities = [(part.study, part.row, part.part, column) for part in parts]
    return Contrast.difference(*zip(identities, samples, strict=True))


def _margin(claim: Claim, column: str, second: float) -> float:
    """The margin of a claim on one task: to be as good as a row that learned little, a row must be closer to it."""
    if claim.direction == "better" or claim.measure != "accuracy":
        return claim.margin
    trivial = TRIVIAL_ANSWERS.get(column.split()[0])
    learned = second - (100 * trivial.accuracy if trivial is not None else 0.0)
    return min(claim.margin, max(0.0, LARGEST_SHARE * learned))


def _decided(base: TaskVerdict, claim: Claim, contrast: Contrast, margin: float) -> TaskVerdict:
    """The verdict by the rule. `margin` is in the unit of the contrast."""
    effect = contrast.effect
    decision, bound = decide(effect, claim.direction, margin)
    text = f"{decision}: {bound_text(bound, claim.measure)}" if decision is Decision.UNSEEN else str(decision)
    if decision is Decision.FAILS and claim.direction == "better" and effect.high < 0:
        text += ": the opposite does"
    shown = in_units(effect, claim.measure)
    return replace(base, decision=decision, text=text, effect=shown, contrast=contrast, margin=margin)


def in_units(effect: Effect, measure: Measure) -> Effect:
    """An effect in points as it is, one of logarithms of examples as a ratio."""
    if measure != "examples":
        return effect
    return Effect(*(math.exp(value) for value in (effect.value, effect.low, effect.high, effect.smallest)))


def bound_text(bound: float, measure: Measure) -> str:
    """How large a difference can be at most, rounded as the ends of intervals are."""
    if measure == "examples":
        return f"less than {math.exp(bound):.3g} times"
    return f"less than {bound:.1f} points"


def _score_sample(measure: Measure, part: RowPart, side: ClaimCell) -> Sample | None:
    """The numbers of a row over its seeds; None if the runs do not have them."""
    values = _values(part, side)
    if len(values) < MIN_SEEDS:
        return None
    if measure != "accuracy":
        return Sample.of(values)
    run = side.cell.chosen[0]
    scored = run.config.get("eval_examples") if part.part == "train" else run.summary.test_examples
    return Sample.of(values, scored if isinstance(scored, int) else None)


def _values(part: RowPart, side: ClaimCell) -> list[float]:
    """The number of each run of a row that has one."""
    read = quantity_of(STUDIES[part.study]).parts[part.part]
    readings = [read(run) for run in side.cell.chosen]
    return [reading[0] for reading in readings if reading is not None]


def _mean(measure: Measure, part: RowPart, side: ClaimCell) -> float | None:
    """The number of a row that has too few runs for an error; None for examples, whose level two rows must share."""
    values = _values(part, side) if measure != "examples" else []
    return statistics.fmean(values) if values else None


def _trivial_text(trivial: TrivialAnswer) -> str:
    return f"an answer without training ({trivial.how}) has {100 * trivial.accuracy:.1f} %"


def _compare_examples(base: TaskVerdict, claim: Claim, rows: ComparedRows, sides: Sequence[ClaimCell]) -> TaskVerdict:
    """Compare how many training examples two rows need to the level that both reach."""
    finals = [final_accuracy(side.cell.chosen) for side in sides]
    if finals[0] is None or finals[1] is None:
        return replace(base, decision=Decision.LEFT_OUT, text="not comparable: the records have no curves")
    level = SHARE_OF_FINAL * min(finals[0], finals[1])
    trivial = TRIVIAL_ANSWERS.get(base.column.split()[0])
    if trivial is not None and level <= trivial.accuracy:
        text = f"nothing was learned by one row: {_trivial_text(trivial)}"
        return replace(base, decision=Decision.NOTHING_LEARNED, text=text)
    counts = [[examples_to_level(run, level) for run in side.cell.chosen] for side in sides]
    first, second = (speed_sample(counts_of_row) for counts_of_row in counts)
    base = replace(base, first=math.exp(-first.mean), second=math.exp(-second.mean))
    if all(count.is_first for counts_of_row in counts for count in counts_of_row):
        text = "too easy to tell: both are there at the first validation"
        return replace(base, decision=Decision.CEILING, text=text)
    parts = (rows.first, rows.second)
    notes = tuple(
        (f"{part.label}, {base.column}", words)
        for part, counts_of_row in zip(parts, counts, strict=True)
        for words in _bounds(counts_of_row)
    )
    contrast = _contrast([replace(part, part="examples") for part in parts], base.column, (first, second))
    return _decided(replace(base, notes=(*base.notes, *notes)), claim, contrast, math.log(claim.margin))


def _bounds(counts: Sequence[ExampleCount]) -> list[str]:
    """Notes on counts that are bounds."""
    early, late = sum(count.is_first for count in counts), sum(count.is_last for count in counts)
    words = {
        "reached the level before the first validation, with fewer examples than are counted.": early,
        "did not reach the level, and would need more examples than are counted.": late,
    }
    return [f"{count} of {pluralize(len(counts), 'run')} {text}" for text, count in words.items() if count]


def _published_effect(measure: Measure, rows: ComparedRows, column: str) -> float | None:
    """The effect in the published numbers; None if one of them is missing."""
    if measure == "attention":
        return None
    first, second = published_value(rows.first, column), published_value(rows.second, column)
    if first is None or second is None:
        return None
    return second / first if measure == "examples" else round(first - second, 4)
