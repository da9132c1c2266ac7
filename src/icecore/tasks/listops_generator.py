"""Random ListOps expressions by the rule of Long Range Arena's "basic" task.

Trees are drawn level by level, many at once, so that 100,000 expressions take seconds. Their values are computed while
they are written out as token ids.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from icecore.core.errors import ConfigError
from icecore.tasks.listops_expressions import CLOSE, OPEN, Expressions

# Long Range Arena's settings of "basic"; the root has depth 1.
MAX_DEPTH, MIN_LENGTH, MAX_LENGTH = 10, 500, 2000

#: trees that are drawn at a time
TREES_PER_BATCH = 8192
#: drawing stops if this many batches bring less than one new tree in 1,000
FRUITLESS_BATCHES = 100

#: called with (expressions drawn, expressions requested)
GenerationProgress = Callable[[int, int], None]


def generate(
    count: int,
    seed: int = 0,
    progress: GenerationProgress | None = None,
    shortest: int = MIN_LENGTH,
    longest: int = MAX_LENGTH,
) -> Expressions:
    """`count` different expressions by Long Range Arena's rule. The first ones do not depend on `count`.

    Above depth 10, a node is an operator with 2 to 10 arguments with probability 1/4, else a digit, all drawn
    uniformly. Trees of more than `shortest` and less than `longest` tokens are used. The random numbers are raw words
    of PCG64, because NumPy guarantees that this stream stays the same, unlike the streams of its distributions.
    Raises ConfigError if so few trees fit, or so few new ones are left, that drawing would take too long.
    """
    words = np.random.PCG64(seed)
    values: dict[bytes, int] = {}
    counts = [0]  # different expressions after each batch
    drawn = FRUITLESS_BATCHES * TREES_PER_BATCH
    while counts[-1] < count:
        if len(counts) > FRUITLESS_BATCHES and (recent := counts[-1] - counts[-1 - FRUITLESS_BATCHES]) * 1000 < drawn:
            raise ConfigError(
                f"ListOps trees of more than {shortest} and less than {longest} tokens are too rare: {counts[-1]} of "
                f"{count} were found, {recent} of them among the last {drawn} trees. Set shortest and longest further "
                "apart, or use fewer examples."
            )
        levels = _draw_shapes(words, TREES_PER_BATCH, shortest, longest)
        if len(levels[0]):
            values.update(_write_out(levels, words))
            if progress is not None:
                progress(min(len(values), count), count)
        counts.append(len(values))
    return Expressions(list(values), list(values.values())).part(0, count)


def _draw_shapes(words: np.random.PCG64, trees: int, shortest: int, longest: int) -> list[np.ndarray]:
    """The number of arguments of each node (0 for a digit) in those of `trees` random trees whose length fits.

    There is one array for each depth, with nodes in the order of their parents. A tree is dropped as soon as it is too
    long. This cannot bias the result, because it would be rejected whatever its deeper nodes are.
    """
    levels: list[tuple[np.ndarray, np.ndarray]] = []
    length = np.ones(trees)
    owner = np.arange(trees)
    for _ in range(1, MAX_DEPTH):
        word = words.random_raw(len(owner))
        arity = np.where(word & 3 == 0, 2 + _below(9, word), 0)
        levels.append((owner, arity))
        inner = arity > 0
        # An operator takes one token for itself, one for its closing bracket, and those of its arguments.
        length += np.bincount(owner[inner], weights=1 + arity[inner], minlength=trees)
        growing = inner & (length < longest)[owner]
        owner = np.repeat(owner[growing], arity[growing])
    levels.append((owner, np.zeros(len(owner), np.int64)))
    fits = (length > shortest) & (length < longest)
    return [arity[fits[owner]] for owner, arity in levels]


@dataclass(frozen=True)
class _Level:
    """The nodes of one depth: number of arguments, token id of the digit or operator, tokens of the subtree, value."""

    arity: np.ndarray
    token: np.ndarray
    size: np.ndarray
    value: np.ndarray


def _write_out(levels: list[np.ndarray], words: np.random.PCG64) -> Iterator[tuple[bytes, int]]:
    """Token ids and values of the trees with the shapes `levels`; digits and operators are drawn from `words`."""
    nodes = [_Level(*(np.empty(0, np.int64) for _ in range(4)))]
    for arity in reversed(levels):
        nodes.insert(0, _with_values(arity, words.random_raw(len(arity)), nodes[0]))
    root = nodes[0]
    tokens = np.empty(root.size.sum(), np.uint8)
    starts = position = _before(root.size)
    for level, deeper in itertools.pairwise(nodes):
        tokens[position] = level.token
        inner = level.arity > 0
        tokens[(position + level.size - 1)[inner]] = CLOSE
        # The first argument follows its operator, and each other argument follows the one before.
        arity, offset = level.arity[inner], _before(deeper.size)
        position = offset + np.repeat(position[inner] + 1 - offset[_before(arity)], arity)
    for start, size, value in zip(starts.tolist(), root.size.tolist(), root.value.tolist(), strict=True):
        yield tokens[start : start + size].tobytes(), value


def _with_values(arity: np.ndarray, word: np.ndarray, below: _Level) -> _Level:
    """One depth of trees, from random words for its symbols and the depth below it."""
    value, size = _below(10, word), np.ones(len(arity), np.int64)
    token = 1 + value
    inner = arity > 0
    operator, counts = (word & 3).astype(np.int64)[inner], arity[inner]
    first = _before(counts)
    ordered = np.sort(10 * np.repeat(np.arange(len(counts)), counts) + below.value) % 10  # within each operator
    median = (ordered[first + (counts - 1) // 2] + ordered[first + counts // 2]) // 2
    total = np.add.reduceat(below.value, first) % 10
    token[inner] = OPEN + operator
    size[inner] = 2 + np.add.reduceat(below.size, first)
    value[inner] = np.choose(operator, [ordered[first], ordered[first + counts - 1], median, total])
    return _Level(arity, token, size, value)


def _below(bound: int, words: np.ndarray) -> np.ndarray:
    """Uniform integers from 0 to bound - 1 from the upper halves of random 64-bit words (bias below bound / 2**32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


def _before(sizes: np.ndarray) -> np.ndarray:
    """The sum of the sizes before each one."""
    return np.cumsum(sizes) - sizes
