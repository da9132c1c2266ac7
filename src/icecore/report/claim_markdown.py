"""The part of docs/reproducing.md that says which claims hold. It is made from results, between two comments."""

import re
from collections.abc import Iterable, Sequence

from icecore.core.errors import DataError
from icecore.core.text import list_in_words, pluralize
from icecore.experiments.results import RunRecord
from icecore.paper.trivial_answers import TRIVIAL_ANSWERS
from icecore.report.claim_costs import REFERENCE_SPEED
from icecore.report.claim_text import (
    TASK_COLUMNS,
    effect_text,
    interval_text,
    origin_of,
    smallest_text,
    tally,
    task_cells,
    tasks_that_ran,
)
from icecore.report.consistency import version_reader
from icecore.report.verdicts import Verdict, group_notes

#: lines between which the claims are written
CLAIMS_BEGIN = "<!-- Claims: `make claims` writes what follows from the results. Do not edit it by hand. -->"
CLAIMS_END = "<!-- End of the claims -->"


def with_claims(page: str, section: str, name: str) -> str:
    """A page with `section` between its two comments. Raises DataError if it does not have them, once and in order."""
    before, begin, rest = page.partition(CLAIMS_BEGIN)
    _, end, after = rest.partition(CLAIMS_END)
    if not begin or not end or CLAIMS_BEGIN in after or CLAIMS_END in after:
        raise DataError(
            f"{name} has no place for the claims. Add these two lines, between which they are written:\n"
            f"{CLAIMS_BEGIN}\n{CLAIMS_END}"
        )
    return f"{before}{CLAIMS_BEGIN}\n\n{section}\n\n{CLAIMS_END}{after}"


def claims_markdown(verdicts: Sequence[Verdict], records: Sequence[RunRecord]) -> str:
    """Two tables, of claims and of the tasks behind them, and notes on the runs."""
    operations = f"{REFERENCE_SPEED.operations / 1e9:,.0f}"
    parts = [
        f"{tally(verdicts)} {_origin(records)}",
        "The effect is that of the first of the two rows in percentage points, or how many times the examples of the "
        "first one the second one needs, on the average of the tasks that count. *Smallest* is the effect that this "
        "many runs would have shown in four of five cases. Costs are for two cores that do "
        f"{operations} billion operations a second.",
        f"An answer without training has {_trivial_answers()}.",
        _table(("claim", "where", "verdict", "effect", "95 % interval", "smallest"), map(_claim_cells, verdicts)),
    ]
    lines = [
        [
            verdict.claim.name + ("" if verdict.is_main else f", {verdict.body}"),
            *task_cells(task, verdict.claim.measure),
        ]
        for verdict in verdicts
        for task in tasks_that_ran(verdict)
    ]
    if lines:
        parts += [
            "The comparisons behind these verdicts, with the numbers of both rows, and the published effect:",
            _table(("claim", *TASK_COLUMNS), lines),
        ]
    if notes := group_notes(verdicts):
        parts += ["About the runs:", "\n".join(f"- {_escape(note)}" for note in notes)]
    return "\n\n".join(parts)


def _claim_cells(verdict: Verdict) -> list[str]:
    claim, effect = verdict.claim, verdict.effect
    statement = claim.statement if verdict.is_main else f"... with the body {verdict.body}"
    details = verdict.details if len(verdict.tasks) > 1 else ""
    verdict_text = f"{verdict.text}. {details[:1].upper()}{details[1:]}." if details else verdict.text
    numbers = ["", "", ""]
    if effect is not None:
        measure = claim.measure
        numbers = [effect_text(effect.value, measure), interval_text(effect, measure), smallest_text(effect, measure)]
    return [f"{claim.name}: {statement}", origin_of(verdict), verdict_text, *numbers]


def _trivial_answers() -> str:
    """What answers without training reach, each accuracy once, with its tasks."""
    tasks: dict[str, list[str]] = {}
    for task, answer in TRIVIAL_ANSWERS.items():
        tasks.setdefault(f"{100 * answer.accuracy:.1f} % ({answer.how})", []).append(task)
    return "; ".join(f"{answer} on {list_in_words(names)}" for answer, names in tasks.items())


def _origin(records: Sequence[RunRecord]) -> str:
    """Which runs the claims were decided from."""
    runs = {record.run_id: record for record in records if record.run_id}.values()
    if not runs:
        return "There are no runs yet."
    read = version_reader("icecore")
    versions = " and ".join(sorted({read(run.summary) for run in runs} - {""}))
    dates = sorted({run.date for run in runs if run.date})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "days unknown"
    return f"They were decided from the {pluralize(len(runs), 'run')} in `results/` (icecore {versions}; {days})."


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Text without Markdown syntax and without line breaks."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", " ".join(text.split()))
