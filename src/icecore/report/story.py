"""The story of a table in a few sentences: where its first row is ahead, where it is behind, and where nobody knows."""

from collections.abc import Mapping, Sequence

from icecore.core.text import list_in_words
from icecore.report.cells import TableCell
from icecore.report.effects import is_clear_difference
from icecore.report.quantities import QUANTITIES


def tell_story(
    caption: str,
    rows: Sequence[tuple[str, Mapping[str, TableCell]]],
    columns: Sequence[str],
    trivial: Mapping[str, float],
) -> str:
    """How the first row with numbers compares with the best of the others, column by column; empty without two rows.

    A difference is clear if its 95 % interval excludes 0, as for the claims.

    caption  of the table's quantity; only accuracies on test examples have a story
    rows     label and cells by column
    trivial  what an answer without training reaches in %, by column
    """
    if caption != QUANTITIES["test"].caption:
        return ""
    samples = {label: {name: cells[name].sample for name in columns} for label, cells in rows}
    first = next((label for label, of_row in samples.items() if any(of_row.values())), "")
    ahead, behind, open_, useless = ([] for _ in range(4))
    for name in columns:
        ours = samples[first][name] if first else None
        others = {label: s for label, of_row in samples.items() if label != first and (s := of_row[name]) is not None}
        if ours is None or not others:
            continue
        rival = max(others, key=lambda label: others[label].mean)
        text = f"{name} ({ours.mean:.1f} against {others[rival].mean:.1f} of {rival})"
        if not is_clear_difference(ours, others[rival]):
            open_.append(text)
        else:
            (ahead if ours.mean > others[rival].mean else behind).append(text)
        if name in trivial and not ours.is_better_than(trivial[name]):
            useless.append(f"{name} ({trivial[name]:.1f})")
    sentences = [
        f"{_capital(first)} is clearly the best on {list_in_words(ahead)}." if ahead else "",
        f"It is clearly behind on {list_in_words(behind)}." if ahead and behind else "",
        f"{_capital(first)} is clearly behind on {list_in_words(behind)}." if behind and not ahead else "",
        f"No clear difference on {list_in_words(open_)}." if open_ else "",
        f"No better than an answer without training on {list_in_words(useless)}." if useless else "",
    ]
    return " ".join(filter(None, sentences))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
