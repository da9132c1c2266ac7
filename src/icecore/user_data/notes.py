"""Notes that tell a user what was inferred, dropped, filled or skipped while their data were read."""

from collections.abc import Sequence

from icecore.core.text import pluralize

#: (topic, message), for example ("dropped", "7 rows without a target")
Note = tuple[str, str]
#: characters of a name that are shown
LONGEST_NAME = 200


def name_rows(names: Sequence[str], rows: Sequence[int], most: int = 5) -> str:
    """How many rows these are, and the names of the first few.

    >>> name_rows(["a", "b", "c"], [0, 2])
    '2 rows (a, c)'
    """
    shown = ", ".join(str(names[row]) for row in rows[:most])
    return f"{pluralize(len(rows), 'row')} ({shown}{', ...' if len(rows) > most else ''})"


def join_names(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are.

    >>> join_names(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    head = ", ".join(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]} ..." for name in names[:most])
    return head + (f" and {len(names) - most:,} more" if len(names) > most else "")
