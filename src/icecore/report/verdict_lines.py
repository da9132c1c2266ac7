"""Verdicts as the page shows them: the most important ones at the top, the others folded away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icecore.core.text import pluralize
from icecore.report.effects import Decision
from icecore.report.verdicts import DETAILS, Verdict

#: verdicts at the top of the page
TOP_VERDICTS = 5
#: how the page colours a decision; "open" is what cannot be said
TONES: Mapping[Decision, str] = {
    Decision.HOLDS: "holds",
    Decision.FAILS: "fails",
    Decision.DIFFERS: "mixed",
}


@dataclass(frozen=True)
class VerdictLine:
    """What became of a claim. `tone` is "holds", "fails", "mixed" or "open"."""

    text: str
    tone: str
    statement: str
    source: str
    detail: str = ""


@dataclass(frozen=True)
class VerdictList:
    """The most important verdicts that rest on results, and all others, both in their order.

    group  budget and body of the first one; the others name theirs if they differ
    """

    group: str
    top: tuple[VerdictLine, ...]
    others: tuple[VerdictLine, ...]


def list_verdicts(verdicts: Sequence[Verdict]) -> VerdictList:
    """The verdicts as the page shows them."""
    can_lead = [each.is_main and each.decision is not Decision.NOT_RUN for each in verdicts]
    leading = [number for number, can in enumerate(can_lead) if can][:TOP_VERDICTS]
    others = [number for number in range(len(verdicts)) if number not in leading]
    usual = _group(verdicts[leading[0]]) if leading else ""
    top, rest = (tuple(_line(verdicts[number], usual) for number in numbers) for numbers in (leading, others))
    return VerdictList(usual, top, rest)


def _group(verdict: Verdict) -> str:
    return f"budget {verdict.budget}, {verdict.body}"


def _line(verdict: Verdict, usual_group: str) -> VerdictLine:
    was_run = verdict.decision is not Decision.NOT_RUN
    group = _group(verdict) if was_run and _group(verdict) != usual_group else ""
    parts = [_reason(verdict), _tasks_text(verdict), _effect_text(verdict), group]
    detail = " ".join(f"{_capital(part)}." for part in parts if part)
    tone = TONES.get(verdict.decision, "open")
    return VerdictLine(str(verdict.decision), tone, verdict.claim.statement, _capital(verdict.claim.source), detail)


def _reason(verdict: Verdict) -> str:
    """What the text of a verdict says beyond its decision, such as a bound, a cause or a cost.

    That it holds on some tasks and not on others is left out: the details name these.
    """
    rest = verdict.text.removeprefix(str(verdict.decision))
    if rest == verdict.text:  # it has words of its own
        return rest
    return rest.removeprefix(":").strip() if rest.startswith(":") and verdict.decision is not Decision.DIFFERS else ""


def _tasks_text(verdict: Verdict) -> str:
    """On which tasks the claim holds, or on how many of its comparisons if it has several on a task."""
    if verdict.effect is None:
        return ""
    if len(verdict.claim.rows) == 1:
        return verdict.details
    tasks = verdict.tasks
    counts = {words: sum(task.counts and task.decision is key for task in tasks) for key, words in DETAILS.items()}
    counted = sum(counts.values())
    texts = [f"{words} {count}" for words, count in counts.items() if count]
    rest = f"; {len(tasks) - counted} more decide nothing" if counted < len(tasks) else ""
    return f"{', '.join(texts)} of {pluralize(counted, 'comparison')}{rest}"


def _effect_text(verdict: Verdict) -> str:
    """The mean effect with its interval, in words; empty if no task counts."""
    effect = verdict.effect
    if effect is None:
        return ""
    average = "on average " if sum(task.counts for task in verdict.tasks) > 1 else ""
    interval = f"95 %: {effect.low:.1f} to {effect.high:.1f}"
    if verdict.claim.measure == "examples":
        return f"{average}{effect.value:.1f} times the examples ({interval})"
    return f"{average}{effect.value:+.1f} points ({interval})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
