"""Verdicts: what the results say about each claim of the paper and of its rebuttal.

`evaluate_claims` takes the records of results files. docs/method.md has the rule in words, `effects.decide` in code.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from icecore.core.text import list_in_words, pluralize
from icecore.experiments.results import RunRecord
from icecore.paper.budgets import BUDGETS, SMOKE, Budget, budget_of_label, names_protocol
from icecore.paper.claims import CLAIMS, Claim
from icecore.report.claim_costs import cells_seconds
from icecore.report.claim_records import ClaimCell, comparable_cells, places_of
from icecore.report.effects import Contrast, Decision, Effect, decide
from icecore.report.record_index import Place, RecordIndex
from icecore.report.task_verdicts import TaskVerdict, bound_text, compare_task, in_units, not_run_text
from icecore.training.run_summary import DIVERGED

#: the budget that has all bodies
FULL_BUDGET = "full"
#: the budget at which the cost of a claim is given that has no results
USUAL_BUDGET = "cpu"

#: expected seconds of cells at a budget and body, without those that have no body there; None if none has one
CellsCost = Callable[[Sequence[Place], str, str], float | None]
#: label of a budget, and a body
Group = tuple[str, str]

#: how a sentence names the tasks of each decision
DETAILS: Mapping[Decision, str] = {
    Decision.HOLDS: "holds on",
    Decision.FAILS: "does not hold on",
    Decision.UNSEEN: "too small to see on",
    Decision.CEILING: "too easy to tell on",
    Decision.NOTHING_LEARNED: "nothing was learned on",
    Decision.TOO_FEW: "not enough seeds on",
    Decision.LEFT_OUT: "not comparable on",
    Decision.NOT_RUN: "not run on",
}


@dataclass(frozen=True)
class Verdict:
    """What the results of one budget and body say about a claim.

    decision   on the claim as a whole; `text` says it in words, with numbers where they belong to it
    tasks      one for each task and pair of rows
    effect     the mean over the tasks that count, in percentage points or as a ratio; None if none counts
    seconds    what the missing cells would cost on two cores; None if nothing is missing, or nothing is known
    is_main    of the body of the budget; False for the same claim with another body
    """

    claim: Claim
    decision: Decision
    text: str
    tasks: tuple[TaskVerdict, ...]
    effect: Effect | None
    budget: str
    body: str
    seconds: float | None = None
    is_main: bool = True

    @property
    def details(self) -> str:
        """On which tasks the claim holds, does not hold, and so on, in one sentence; empty if no task counts."""
        if not any(task.counts for task in self.tasks):
            return ""
        groups: dict[Decision, list[TaskVerdict]] = {}
        for task in self.tasks:
            decision = Decision.LEFT_OUT if task.decision.counts and not task.counts else task.decision
            groups.setdefault(decision, []).append(task)
        words = {text: groups[decision] for decision, text in DETAILS.items() if decision in groups}
        return "; ".join(f"{text} {self.name_tasks(tasks)}" for text, tasks in words.items())

    def name_tasks(self, tasks: Sequence[TaskVerdict]) -> str:
        """Some of the claim's tasks in words, briefly where they are the same for several pairs of rows."""
        labels_of: dict[str, list[str]] = {}
        for label in dict.fromkeys(task.label for task in self.tasks):
            every = [task.column for task in self.tasks if task.label == label]
            if some := [task.column for task in tasks if task.label == label]:
                columns = "all tasks" if len(some) == len(every) > 1 else list_in_words(some)
                labels_of.setdefault(columns, []).append(label)
        texts = [
            f"{columns} ({list_in_words(labels)})" if any(labels) else columns for columns, labels in labels_of.items()
        ]
        return "; ".join(texts) if any(" and " in text for text in texts) else list_in_words(texts)

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the runs, each sentence once, with the cells that it is about."""
        return group_notes([self])


def group_notes(verdicts: Sequence[Verdict]) -> list[str]:
    """The notes of verdicts, each sentence once, with the cells that it is about."""
    cells: dict[str, dict[str, None]] = {}
    for cell, note in (pair for verdict in verdicts for task in verdict.tasks for pair in task.notes):
        cells.setdefault(note, {})[cell] = None
    return [f"{'; '.join(names)}: {note}" for note, names in cells.items()]


def evaluate_claims(
    records: Sequence[RunRecord], claims: Sequence[Claim] = CLAIMS, cost: CellsCost = cells_seconds
) -> list[Verdict]:
    """A verdict on every claim, the most important first, then those with other bodies than the budget's own.

    Each is decided at the largest budget that has at least half as many of the claim's comparisons as any other one;
    `smoke` never counts. A claim without results is "not run", with its cost.
    """
    index = RecordIndex(records)
    main: list[Verdict] = []
    others: list[Verdict] = []
    for claim in claims:
        counts = _comparison_counts(claim, index)
        own = [group for group in counts if group[1] == _budget_of(group).bodies["body"]]
        chosen = _largest(counts, own or list(counts)) or (USUAL_BUDGET, BUDGETS[USUAL_BUDGET].bodies["body"])
        main.append(evaluate_claim(claim, index, chosen, cost))
        for body in dict.fromkeys(body for _, body in counts if body != chosen[1]):
            group = _largest(counts, [group for group in counts if group[1] == body])
            if group is not None:
                others.append(evaluate_claim(claim, index, group, cost, is_main=False))
    return main + others


def evaluate_claim(claim: Claim, index: RecordIndex, group: Group, cost: CellsCost, is_main: bool = True) -> Verdict:
    """The verdict on a claim at one budget and body."""
    cells = comparable_cells(claim, index, *group)
    missing = [place for place, side in cells.items() if not _was_run(side)]
    tasks = []
    for rows in claim.rows:
        for column in rows.columns:
            places = dict.fromkeys((part.study, part.row, column) for part in (rows.first, rows.second))
            seconds = cost([place for place in places if place in missing], *group)
            tasks.append(compare_task(claim, rows, column, cells, seconds))
    total = cost(missing, *group)
    lacking = [place for place in missing if cost([place], *group) is None]
    at_full = cost(lacking, FULL_BUDGET, BUDGETS[FULL_BUDGET].bodies["body"])
    counted = [task for task in tasks if task.counts and task.contrast is not None]
    mean = Contrast.mean([task.contrast for task in counted if task.contrast is not None]).effect if counted else None
    effect = None if mean is None else in_units(mean, claim.measure)
    decision = overall_decision(claim, tasks, mean)
    text = _text(decision, tasks, claim, mean) or not_run_text(total, at_full)
    return Verdict(claim, decision, text, tuple(tasks), effect, *group, total, is_main)


def overall_decision(claim: Claim, tasks: Sequence[TaskVerdict], mean: Effect | None) -> Decision:
    """The decision on a whole claim, from those on the tasks that count and the mean of their effects.

    It holds if it holds on at least half of them and fails on none, and it does not hold if it fails on at least half
    and holds on none. If it holds on some and fails on others, it differs between tasks. If it is too small to see on
    all, the same rule is applied to the mean effect and the mean margin. Otherwise it is too small to see. If no task
    counts, the claim has the most frequent decision of those that were run.
    """
    counted = [task.decision for task in tasks if task.counts]
    holds, fails = counted.count(Decision.HOLDS), counted.count(Decision.FAILS)
    if holds and fails:
        return Decision.DIFFERS
    if holds or fails:
        half = len(counted) / 2
        return Decision.HOLDS if holds >= half else Decision.FAILS if fails >= half else Decision.UNSEEN
    if mean is not None:
        return decide(mean, claim.direction, _mean_margin(tasks))[0]
    # a task that would count, but for its version or precision, cannot be compared with the rest
    rest = Counter(
        Decision.LEFT_OUT if task.decision.counts else task.decision
        for task in tasks
        if task.decision is not Decision.NOT_RUN
    )
    return rest.most_common(1)[0][0] if rest else Decision.NOT_RUN


def _text(decision: Decision, tasks: Sequence[TaskVerdict], claim: Claim, mean: Effect | None) -> str:
    """The decision in words, with its numbers; empty if nothing was run."""
    if decision is Decision.NOT_RUN:
        return ""
    counted = [task for task in tasks if task.counts]
    if not counted:
        texts = list(dict.fromkeys(task.text for task in tasks if task.decision is decision))
        return texts[0] if len(texts) == 1 else str(decision)
    if len(counted) == 1:
        return counted[0].text + (f" (decided on {counted[0].name} alone)" if len(tasks) > 1 else "")
    of_all = f"of {pluralize(len(counted), 'task' if len(claim.rows) == 1 else 'comparison')}"
    count = sum(task.decision is decision for task in counted)
    if decision is Decision.DIFFERS:
        holds = sum(task.decision is Decision.HOLDS for task in counted)
        fails = sum(task.decision is Decision.FAILS for task in counted)
        return f"{decision}: holds on {holds} and does not hold on {fails} {of_all}"
    if count == 0:
        return f"{decision} on the average {of_all}, but is too small to see on each alone"
    if decision is not Decision.UNSEEN:
        return f"{decision} on {count} {of_all}"
    if count < len(counted):
        other = next(task.decision for task in counted if task.decision is not decision)
        return f"{decision} on {count} {of_all}, {other} on {len(counted) - count}"
    assert mean is not None  # every task whose effect is too small to see has one
    bound = decide(mean, claim.direction, _mean_margin(tasks))[1]
    return f"{decision}: {bound_text(bound, claim.measure)} on average"


def _mean_margin(tasks: Sequence[TaskVerdict]) -> float:
    """The margin for a mean effect, in the unit of contrasts."""
    return statistics.fmean(task.margin for task in tasks if task.counts)


def _was_run(side: ClaimCell) -> bool:
    """Whether a cell has a number, or finished runs that have none because they diverged or cannot be compared."""
    return bool(side.cell.chosen) or side.cell.state == DIVERGED or side.is_left_out


def _budget_of(group: Group) -> Budget:
    return BUDGETS[budget_of_label(group[0])]


def _comparison_counts(claim: Claim, index: RecordIndex) -> dict[Group, int]:
    """How many comparisons of a claim have results, by budget and body, for those that have any."""
    counts: dict[Group, int] = {}
    for budget, body in index.groups:
        name = budget_of_label(budget)
        if name not in BUDGETS or name == SMOKE:
            continue
        has_runs = {
            place: any(not record.missing for record in index.records_of(place, budget, body))
            for place in places_of(claim)
        }
        count = sum(
            all(has_runs[part.study, part.row, column] for part in (rows.first, rows.second))
            for rows in claim.rows
            for column in rows.columns
        )
        if count:
            counts[budget, body] = count
    return counts


def _largest(counts: Mapping[Group, int], groups: Sequence[Group]) -> Group | None:
    """The group with the largest budget among those that have at least half as many comparisons as any of `groups`."""
    order = list(BUDGETS)
    most = max((counts[group] for group in groups), default=0)

    def preference(group: Group) -> tuple[int, bool, int]:
        label, _ = group
        return order.index(budget_of_label(label)), not names_protocol(label), counts[group]

    return max((group for group in groups if 2 * counts[group] >= most), key=preference, default=None)
