"""The story of a table in a few sentences: where its first row is ahead, where it is behind, and where nobody knows."""

import math
from collections.abc import Mapping, Sequence

from icecore.core.text import list_in_words
from icecore.report.cells import MeanWithError, TableCell
from icecore.report.quantities import QUANTITIES

#: combined standard errors beyond which a difference is clear
CLEAR_ERRORS = 2.0


def tell_story(
    caption: str,
    rows: Sequence[tuple[str, Mapping[str, TableCell]]],
    columns: Sequence[str],
    trivial: Mapping[str, float],
) -> str:
    """How the first row with numbers compares with the best of the others, column by column; empty without two rows.

    caption  of the table's quantity; only accuracies on test examples have a story
    rows     label and cells by column
    trivial  what an answer without training reaches in %, by column
    """
    if caption != QUANTITIES["test"].caption:
        return ""
    means = {label: {name: _number(cells[name]) for name in columns} for label, cells in rows}
    first = next((label for label, numbers in means.items() if any(numbers.values())), "")
    ahead, behind, open_, useless = ([] for _ in range(4))
    for name in columns:
        ours = means[first][name] if first else None
        others = {label: n for label, numbers in means.items() if label != first and (n := numbers[name]) is not None}
        if ours is None or not others:
            continue
        rival = max(others, key=lambda label: others[label].mean)
        gap, error = ours.mean - others[rival].mean, _error(ours, others[rival])
        text = f"{name} ({ours.mean:.1f} against {others[rival].mean:.1f} of {rival})"
        if error is None or abs(gap) <= CLEAR_ERRORS * error:
            open_.append(text)
        else:
            (ahead if gap > 0 else behind).append(text)
        if name in trivial and ours.mean - trivial[name] <= CLEAR_ERRORS * (ours.sem or 0.0):
            useless.append(f"{name} ({trivial[name]:.1f})")
    sentences = [
        f"{_capital(first)} is clearly the best on {list_in_words(ahead)}." if ahead else "",
        f"It is clearly behind on {list_in_words(behind)}." if ahead and behind else "",
        f"{_capital(first)} is clearly behind on {list_in_words(behind)}." if behind and not ahead else "",
        f"No clear difference on {list_in_words(open_)}." if open_ else "",
        f"No better than an answer without training on {list_in_words(useless)}." if useless else "",
    ]
    return " ".join(filter(None, sentences))


def _number(cell: TableCell) -> MeanWithError | None:
    return cell.numbers[0].ours if cell.numbers and not cell.state else None


def _error(first: MeanWithError, second: MeanWithError) -> float | None:
    """The combined standard error; None if there is only one seed of either."""
    if first.sem is None or second.sem is None:
        return None
    return math.hypot(first.sem, second.sem)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
