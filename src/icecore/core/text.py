"""Numbers and durations in words, for messages."""

from collections.abc import Sequence


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


def approximate_duration(seconds: float) -> str:
    """A duration in one rounded unit: "about 40 s", "about 12 min", "about 3 h", "about 5 days"."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72)):
        if seconds / size < limit:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds / 86400:.0f} days"
