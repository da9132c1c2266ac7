"""Notes that tell a user what was inferred, dropped, filled or skipped while their data were read."""

from collections.abc import Sequence

from icecore.core.text import pluralize

#: (topic, message), for example ("dropped", "7 rows without a target")
Note = tuple[str, str]


def name_rows(names: Sequence[str], rows: Sequence[int], most: int = 5) -> str:
    """How many rows these are, and the names of the first few.

    >>> name_rows(["a", "b", "c"], [0, 2])
    '2 rows (a, c)'
    """
    shown = ", ".join(str(names[row]) for row in rows[:most])
    return f"{pluralize(len(rows), 'row')} ({shown}{', ...' if len(rows) > most else ''})"
