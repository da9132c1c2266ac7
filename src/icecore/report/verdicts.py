"""Verdicts: what the results say about each claim of the paper and of its rebuttal.

`evaluate_claims` takes the records of results files. docs/method.md has the rule in words, `effects.decide` in code.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from icecore.core.text import list_in_words, pluralize
from icecore.experiments.results import RunRecord
from icecore.paper.budgets import BUDGETS, Budget
from icecore.paper.claims import CLAIMS, Claim
from icecore.report.claim_costs import cell_seconds
from icecore.report.claim_records import ClaimCell, Place, RecordIndex, comparable_cells, places_of
from icecore.report.effects import Contrast, Decision, Effect
from icecore.report.task_verdicts import TaskVerdict, bound_text, compare_task, decide_effect, in_units, not_run_text
from icecore.training.run_summary import DIVERGED

#: the budget whose numbers mean nothing
SMOKE = "smoke"
#: the budget at which the cost of a claim is given that has no results
USUAL_BUDGET = "cpu"

#: expected seconds of a cell at a budget and body, None if they have no such cell
CellCost = Callable[[Place, str, str], float | None]
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
        """On which tasks the claim holds, does not hold, and so on, in one sentence; empty if nothing was run."""
        if self.decision is Decision.NOT_RUN:
            return ""
        groups: dict[Decision, list[str]] = {}
        for task in self.tasks:
            decision = Decision.LEFT_OUT if task.decision.counts and not task.counts else task.decision
            groups.setdefault(decision, []).append(task.name)
        return "; ".join(f"{words} {list_in_words(groups[key])}" for key, words in DETAILS.items() if key in groups)

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the runs, once each."""
        return list(dict.fromkeys(note for task in self.tasks for note in task.notes))


def evaluate_claims(
    records: Sequence[RunRecord], claims: Sequence[Claim] = CLAIMS, cost: CellCost = cell_seconds
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


def evaluate_claim(claim: Claim, index: RecordIndex, group: Group, cost: CellCost, is_main: bool = True) -> Verdict:
    """The verdict on a claim at one budget and body."""
    cells = comparable_cells(claim, index, *group)
    missing = [place for place, side in cells.items() if not _was_run(side)]
    costs = {place: cost(place, *group) for place in missing}
    tasks = []
    for rows in claim.rows:
        for column in rows.columns:
            places = dict.fromkeys((part.study, part.row, column) for part in (rows.first, rows.second))
            seconds = _total([costs[place] for place in places if place in costs])
            tasks.append(compare_task(claim, rows, column, cells, seconds))
    known = [seconds for seconds in costs.values() if seconds is not None]
    total = sum(known) if known else None
    counted = [task for task in tasks if task.counts and task.contrast is not None]
    mean = Contrast.mean([task.contrast for task in counted if task.contrast is not None]).effect if counted else None
    effect = None if mean is None else in_units(mean, claim.measure)
    decision = overall_decision(claim, tasks, mean)
    text = _text(decision, tasks, claim, mean, total)
    return Verdict(claim, decision, text, tuple(tasks), effect, *group, total, is_main)


def overall_decision(claim: Claim, tasks: Sequence[TaskVerdict], mean: Effect | None) -> Decision:
    """The decision on a whole claim, from those on the tasks that count and the mean of their effects.

    It holds if it holds on more than half of them and fails on none, and it does not hold if it fails on more than half
    and holds on none. If it holds on some and fails on others, it differs between tasks. If it is too small to see on
    all, the same rule is applied to the mean effect. Otherwise it is too small to see. If no task counts, the claim has
    the most frequent decision of those that were run.
    """
    counted = [task.decision for task in tasks if task.counts]
    holds, fails = counted.count(Decision.HOLDS), counted.count(Decision.FAILS)
    if holds and fails:
        return Decision.DIFFERS
    if holds or fails:
        half = len(counted) / 2
        return Decision.HOLDS if holds > half else Decision.FAILS if fails > half else Decision.UNSEEN
    if mean is not None:
        return decide_effect(claim, mean)[0]
    # a task that would count, but for its version or precision, cannot be compared with the rest
    rest = Counter(
        Decision.LEFT_OUT if task.decision.counts else task.decision
        for task in tasks
        if task.decision is not Decision.NOT_RUN
    )
    return rest.most_common(1)[0][0] if rest else Decision.NOT_RUN


def _text(
    decision: Decision, tasks: Sequence[TaskVerdict], claim: Claim, mean: Effect | None, seconds: float | None
) -> str:
    """The decision in words, with its numbers."""
    if decision is Decision.NOT_RUN:
        return not_run_text(seconds)
    counted = [task for task in tasks if task.counts]
    if not counted:
        texts = list(dict.fromkeys(task.text for task in tasks if task.decision is decision))
        return texts[0] if len(texts) == 1 else str(decision)
    if len(counted) == 1:
        return counted[0].text
    of_all = f"of {pluralize(len(counted), 'task' if len(claim.rows) == 1 else 'comparison')}"
    count = sum(task.decision is decision for task in counted)
    if decision is Decision.DIFFERS:
        holds = sum(task.decision is Decision.HOLDS for task in counted)
        fails = sum(task.decision is Decision.FAILS for task in counted)
        return f"{decision}: holds on {holds} and does not hold on {fails} {of_all}"
    if count == 0:
        return f"{decision} on the average {of_all}, but is too small to see on each alone"
    if decision is Decision.UNSEEN and count == len(counted) and mean is not None:
        bound = decide_effect(claim, mean)[1]
        return f"{decision}: {bound_text(bound, claim.measure)} on average"
    return f"{decision} on {count} {of_all}"


def _was_run(side: ClaimCell) -> bool:
    """Whether a cell has a number, or finished runs that have none because they diverged or cannot be compared."""
    return bool(side.cell.chosen) or side.cell.state == DIVERGED or side.is_left_out


def _total(costs: Sequence[float | None]) -> float | None:
    """The sum of costs; None if one of them is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _budget_of(group: Group) -> Budget:
    return BUDGETS[group[0].partition(",")[0]]


def _comparison_counts(claim: Claim, index: RecordIndex) -> dict[Group, int]:
    """How many comparisons of a claim have results, by budget and body, for those that have any."""
    counts: dict[Group, int] = {}
    for budget, body in index.groups:
        name = budget.partition(",")[0]
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
        name, remark, _ = group[0].partition(",")
        return order.index(name), not remark, counts[group]  # a label without a remark is of the default protocol

    return max((group for group in groups if 2 * counts[group] >= most), key=preference, default=None)
