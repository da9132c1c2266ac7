"""What `icecore paper --claims` prints and writes: the verdicts on the claims of the paper, from results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from icecore.cli.console import echo, new_table, print_text, stdout
from icecore.core.errors import DataError
from icecore.core.text import reason

#: columns of a terminal in which all columns of a table fit
WIDE_ENOUGH = 120


def show_claims(results: Path, page: Path | None) -> None:
    """Print the verdicts on all claims, or write them into `page` between its two comments. Nothing is trained.

    Raises DataError if there are no results, or if the page has no place for the claims.
    """
    from icecore.core.storage import write_atomic
    from icecore.experiments.results import read_records
    from icecore.report.claim_markdown import claims_markdown, with_claims
    from icecore.report.verdicts import evaluate_claims

    if not results.exists():
        raise DataError(
            f"{results} does not exist, so there are no results to decide claims from. `icecore paper table2 --budget "
            "cpu` makes some, and --out names another folder."
        )
    records, problems = read_records(results)
    for problem in problems:
        echo(problem, error=True)
    verdicts = evaluate_claims(records)
    if page is None:
        _print_verdicts(verdicts)
        return
    try:
        before = page.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{page} cannot be read ({reason(error)}). --write changes a page that exists.") from error
    after = with_claims(before, claims_markdown(verdicts, records), str(page))
    if after == before:
        print_text(f"{page} is up to date.")
        return
    write_atomic(page, lambda temporary: temporary.write_bytes(after.encode()))
    print_text(f"{page} was written anew.")


def _print_verdicts(verdicts: Sequence[Any]) -> None:
    """A block for each claim: the verdict, the claim, the effect, and a table of its tasks."""
    from icecore.report import claim_text

    print_text(claim_text.tally(verdicts))
    print_text(
        "Effects are percentage points, or ratios of examples. The smallest effect is the one that this many runs "
        "would have shown in four of five cases."
    )
    for verdict in verdicts:
        body = "" if verdict.is_main else f" ({verdict.body})"
        print_text("")
        print_text(f"{verdict.claim.name}{body}: {verdict.text}")
        print_text(f"{verdict.claim.statement} ({claim_text.origin_of(verdict)})")
        if tasks := claim_text.tasks_that_ran(verdict):
            _print_tasks([claim_text.task_cells(task, verdict.claim.measure) for task in tasks])
        for sentence in (claim_text.mean_text(verdict), claim_text.missing_text(verdict), *verdict.notes):
            if sentence:
                print_text(sentence)


def _print_tasks(rows: Sequence[Sequence[str]]) -> None:
    """The tasks of a claim. Columns that are empty are left out, in narrow terminals also what is not the effect's."""
    from icecore.report.claim_text import TASK_COLUMNS

    shown = [number for number in range(len(TASK_COLUMNS)) if any(row[number] for row in rows)]
    names = {TASK_COLUMNS[number] for number in shown}
    console = stdout()
    if console.width < WIDE_ENOUGH and "effect" in names:
        shown = [number for number in shown if TASK_COLUMNS[number] not in ("numbers", "published")]
    table = new_table(*(TASK_COLUMNS[number] for number in shown))
    for row in rows:
        table.add_row(*(escape(row[number]) for number in shown))
    console.print(table)
