"""Numbers and durations in words, and texts from files made harmless, for messages."""

import re
from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

#: characters of a name that are shown
LONGEST_NAME = 200
#: control characters except tabs and line breaks, marks that reverse the direction of text on a terminal, and halves
#: of surrogate pairs, which no encoding can write
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def pluralize(count: int, noun: str) -> str:
    """A count and its noun, in the plural where needed.

    >>> pluralize(1, "row"), pluralize(2_000, "row"), pluralize(0, "class")
    ('1 row', '2,000 rows', '0 classes')
    """
    return f"{count:,} {noun}" + ("es" if noun.endswith("s") else "s") * (count != 1)


def list_in_words(words: Sequence[str]) -> str:
    """Words in a row.

    >>> list_in_words(["a"]), list_in_words(["a", "b"]), list_in_words(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def join_names(names: Sequence[str], most: int = 5) -> str:
    """The first few names, of which long ones are cut, and how many more there are.

    >>> join_names(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    head = ", ".join(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]} ..." for name in names[:most])
    return head + (f" and {len(names) - most:,} more" if len(names) > most else "")


def approximate_duration(seconds: float) -> str:
    """A duration in one rounded unit.

    >>> [approximate_duration(seconds) for seconds in (40, 720, 10_800, 432_000)]
    ['about 40 s', 'about 12 min', 'about 3 h', 'about 5 days']
    >>> approximate_duration(1e10)
    'about 317 years'
    """
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72), ("days", 86400, 730)):
        if seconds / size < limit:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds / (365 * 86400):,.0f} years"


def duration(seconds: float) -> str:
    """A duration in two units at most.

    >>> duration(26.4), duration(525), duration(3900), duration(180_000)
    ('26 s', '8 min 45 s', '1 h 5 min', '2 days 2 h')
    """
    whole = round(max(0.0, seconds))
    for unit, size, smaller, rest in (("days", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            count, left = whole // size, whole % size // rest
            unit = "day" if unit == "days" and count == 1 else unit
            return f"{count} {unit} {left} {smaller}" if left else f"{count} {unit}"
    return f"{whole} s"


def percent(share: float, digits: int = 1) -> str:
    """A share as it is shown everywhere.

    >>> percent(0.9234), percent(1.0), percent(0.307, digits=0)
    ('92.3 %', '100.0 %', '31 %')
    """
    return f"{100 * share:.{digits}f} %"


def metric_text(value: float, metric_name: str) -> str:
    """A metric as it is shown everywhere.

    >>> metric_text(0.9234, "accuracy"), metric_text(0.4123, "r2")
    ('92.3 %', 'R² 0.412')
    """
    return f"R² {value:.3f}" if metric_name == "r2" else percent(value)


def shortened(value: object, limit: int = 60) -> str:
    """The start of a value's representation, for a message about a value that may be large or deeply nested.

    >>> shortened("abc"), shortened(list(range(100)), limit=12)
    ("'abc'", '[0, 1, 2, 3, ...')
    """
    # `repr` itself could take for ever: a list may hold one list many times, which holds another one many times
    writer = Repr()
    writer.maxlevel, writer.maxlist, writer.maxtuple, writer.maxdict, writer.maxset = 3, 20, 20, 20, 20
    writer.maxstring = writer.maxother = writer.maxlong = 2 * limit
    is_short = isinstance(value, str | int | float | bool | type(None))
    try:
        text = repr(value) if is_short else writer.repr(value)
    except (RecursionError, ValueError):  # nested without end, or an integer of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]} ..."


def reason(error: BaseException, limit: int = 300) -> str:
    """What an exception says, or its type if it says nothing, at most `limit` characters: some quote a whole file."""
    text = str(error) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} ..."


def printable(text: str) -> str:
    """The text with its control characters in visible form, so that no name from a file steers a terminal.

    >>> print(printable("a" + chr(27) + "[2Jb"))
    a\\x1b[2Jb
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_values(value: Any) -> Any:
    """A JSON value with all of its texts, also the names in tables, as `printable` shows them."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(name)): printable_values(part) for name, part in value.items()}
    return [printable_values(part) for part in value] if isinstance(value, list) else value
