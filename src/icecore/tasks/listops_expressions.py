"""ListOps expressions as token ids: their vocabulary and their values."""

import hashlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from icecore.core.errors import DataError

OPERATORS: Mapping[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
#: the words by token id - 1: ids 1 to 10 are the digits, 11 to 14 the operators, 15 the closing bracket; 0 is padding
LISTOPS_VOCABULARY = (*"0123456789", *OPERATORS, "]")
#: token ids of the first operator and of the closing bracket
OPEN, CLOSE = 11, 15


@dataclass(frozen=True)
class Expressions:
    """N expressions: `sources` are their token ids, one byte for each token, and `targets` their values 0 to 9."""

    sources: list[bytes]
    targets: list[int]

    def __len__(self) -> int:
        return len(self.sources)

    def part(self, first: int, last: int) -> "Expressions":
        """The expressions from `first` up to, but not including, `last`."""
        return Expressions(self.sources[first:last], self.targets[first:last])

    def digest(self) -> str:
        """sha256 over all token ids and values. It does not depend on where they came from."""
        lines = (source + bytes([target]) for source, target in zip(self.sources, self.targets, strict=True))
        return hashlib.sha256(b"".join(lines)).hexdigest()


def evaluate(source: bytes) -> int:
    """The value of one expression. Raises DataError if the token ids are not exactly one complete expression."""
    functions = tuple(OPERATORS.values())
    stack: list[list[int]] = [[]]
    for token in source:
        if OPEN <= token < CLOSE:
            stack.append([token])
        elif 0 < token < OPEN:
            stack[-1].append(token - 1)
        elif token == CLOSE and len(stack) > 1 and len(stack[-1]) > 1:
            operator, *values = stack.pop()
            stack[-1].append(functions[operator - OPEN](values))
        else:
            raise DataError(f"expected token ids of a ListOps expression, found {token} in a wrong position")
    if len(stack) != 1 or len(stack[0]) != 1:
        raise DataError(f"expected one complete ListOps expression, found {len(source)} token ids that are not one")
    return stack[0][0]
