"""Small pieces of sentences that are shown to people."""


def pluralize(n: int, what: str) -> str:
    """A number of things.

    >>> pluralize(1, "row"), pluralize(2_000, "row"), pluralize(0, "class")
    ('1 row', '2,000 rows', '0 classes')
    """
    return f"{n:,} {what}" + ("es" if what.endswith("s") else "s") * (n != 1)


def approximate_duration(seconds: float) -> str:
    """A rough duration: "about 40 s", "about 12 min", "about 3 h"."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72)):
        if seconds / size < limit:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds / 86400:.0f} days"
