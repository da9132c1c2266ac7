"""Verdicts as the page shows them: the most important ones at the top, the others folded away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icecore.report.effects import Decision
from icecore.report.verdicts import Verdict

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


def verdict_lines(verdicts: Sequence[Verdict]) -> tuple[list[VerdictLine], list[VerdictLine]]:
    """The most important verdicts that rest on results, and all others, both in their order."""
    can_lead = [each.is_main and each.decision is not Decision.NOT_RUN for each in verdicts]
    leading = [number for number, can in enumerate(can_lead) if can][:TOP_VERDICTS]
    others = [number for number in range(len(verdicts)) if number not in leading]
    top, rest = ([_line(verdicts[number]) for number in numbers] for numbers in (leading, others))
    return top, rest


def _line(verdict: Verdict) -> VerdictLine:
    parts = [verdict.details, _effect_text(verdict)]
    if verdict.decision is not Decision.NOT_RUN:
        parts.append(f"budget {verdict.budget}, {verdict.body}")
    detail = " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts if part)
    tone = TONES.get(verdict.decision, "open")
    return VerdictLine(verdict.text, tone, verdict.claim.statement, verdict.claim.source, detail)


def _effect_text(verdict: Verdict) -> str:
    """The mean effect with its interval, in words; empty if no task counts."""
    effect = verdict.effect
    if effect is None:
        return ""
    interval = f"95 %: {effect.low:.1f} to {effect.high:.1f}"
    if verdict.claim.measure == "examples":
        return f"on average {effect.value:.1f} times the examples ({interval})"
    return f"on average {effect.value:+.1f} points ({interval})"
