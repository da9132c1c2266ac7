"""Seeded mutations of JSON values and of bytes, and the number of cases: few in CI, many by hand.

ICECORE_FUZZ=10000 makes so many cases of each kind. A case must end in an answer or in a UserError: any other exception
is a traceback for somebody.
"""

import copy
import os
import random
from typing import Any

#: values that a JSON file may have in any place
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**9, 10**400, -(10**30), 0.5, float("nan"), float("inf"), 1e308, -1e-308),
    *("", "x", "../../x", "/etc/passwd", "\x1b[2J", "=1+1", "\ud800", "a" * 5000, "nan", "1e999"),
    *([], [[]], [None], [1, "a"], {}, {"a": {}}, {"": None}, [[[[[[[[[[]]]]]]]]]]),
)


def cases(few: int) -> int:
    """How many cases to try: `few`, or what ICECORE_FUZZ says."""
    return int(os.environ.get("ICECORE_FUZZ", few))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all parts of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in items for place in places(part, (*path, key)))]


def changed(value: Any, source: random.Random) -> Any:
    """A copy with one to three parts replaced, removed or repeated."""
    value = copy.deepcopy(value)
    for _ in range(source.randint(1, 3)):
        if not (choices := places(value)[1:]):
            return value
        *way, last = source.choice(choices)
        parent = value
        for key in way:
            parent = parent[key]
        kind = source.random()
        if kind < 0.15:
            del parent[last]
        elif kind < 0.25 and isinstance(parent, list):
            parent.append(parent[last])
        else:
            parent[last] = copy.deepcopy(source.choice(ODD))
    return value


def damaged(raw: bytes, source: random.Random) -> bytes:
    """A copy with bytes changed, cut out, repeated, or the end missing."""
    data = bytearray(raw)
    for _ in range(source.randint(1, 4)):
        place, kind = source.randrange(len(data) or 1), source.random()
        length = source.choice((1, 1, 2, 4, 8, 64))
        if kind < 0.5:
            data[place : place + length] = source.randbytes(length)
        elif kind < 0.65:
            del data[place : place + length]
        elif kind < 0.8:
            data[place:place] = data[place : place + length] * source.choice((1, 2, 100))
        elif kind < 0.9:
            data[place : place + length] = source.choice((b"\0", b"\xff")) * length
        else:
            del data[place:]
    return bytes(data)
