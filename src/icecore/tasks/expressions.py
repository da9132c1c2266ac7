"""ListOps expressions: nested MIN MAX MED SM over digits, drawn, evaluated, written and read.

The rule and the files are those of Long Range Arena's "basic" task. Trees are drawn level by level, many at
once, so that 100,000 expressions take seconds; their values are computed while they are laid out.
"""

import hashlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icecore.core.errors import ConfigError, DataError

OPERATORS: Mapping[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
# Token ids: 0 padding, 1..10 the digits 0..9, 11..14 the openers, 15 the closer.
VOCABULARY = (*"0123456789", *OPERATORS, "]")
OPEN, CLOSE = 11, 15

# Long Range Arena's settings of "basic"; the root has depth 1.
MAX_DEPTH, MIN_LENGTH, MAX_LENGTH = 10, 500, 2000

# Trees are drawn BATCH at a time. Drawing stops where FRUITLESS_BATCHES batches bring less than one new tree in 1,000.
BATCH, FRUITLESS_BATCHES = 8192, 100

Progress = Callable[[int, int], None]  # called with (expressions drawn, expressions asked for)


@dataclass(frozen=True)
class Expressions:
    """N expressions: `sources` holds the token ids of each, one byte a token, `targets` the values 0..9."""

    sources: list[bytes]
    targets: list[int]

    def __len__(self) -> int:
        return len(self.sources)

    def part(self, first: int, last: int) -> "Expressions":
        """Expressions first..last - 1."""
        return Expressions(self.sources[first:last], self.targets[first:last])

    def digest(self) -> str:
        """sha256 over all token ids and values, wherever they came from."""
        lines = (source + bytes([target]) for source, target in zip(self.sources, self.targets, strict=True))
        return hashlib.sha256(b"".join(lines)).hexdigest()


# --- drawing -----------------------------------------------------------------------------------------


def generate(
    count: int,
    seed: int = 0,
    progress: Progress | None = None,
    shortest: int = MIN_LENGTH,
    longest: int = MAX_LENGTH,
) -> Expressions:
    """`count` different expressions by Long Range Arena's rule; the first ones do not depend on `count`.

    A node above depth 10 is, with probability 1/4, an operator with 2..10 arguments, else a digit, all
    drawn uniformly; trees of more than `shortest` and less than `longest` tokens are kept. Only raw words of
    PCG64 are used: NumPy keeps that stream the same for ever, unlike the streams of its distributions.
    Raises ConfigError where so few trees fit, or are left to find, that drawing on would hardly end.
    """
    words = np.random.PCG64(seed)
    found: dict[bytes, int] = {}
    known = [0]  # different expressions after each batch
    while known[-1] < count:
        if (
            len(known) > FRUITLESS_BATCHES
            and (recent := known[-1] - known[-1 - FRUITLESS_BATCHES]) * 1000 < FRUITLESS_BATCHES * BATCH
        ):
            raise ConfigError(
                f"ListOps trees of more than {shortest} and less than {longest} tokens are too rare: {known[-1]} of "
                f"{count} found, {recent} of them among the last {FRUITLESS_BATCHES * BATCH} drawn; set shortest and "
                "longest further apart or ask for fewer examples"
            )
        levels = _draw_shapes(words, BATCH, shortest, longest)
        if len(levels[0]):
            found.update(_lay_out(levels, words))
            if progress is not None:
                progress(min(len(found), count), count)
        known.append(len(found))
    return Expressions(list(found), list(found.values())).part(0, count)


def _draw_shapes(words: np.random.PCG64, trees: int, shortest: int, longest: int) -> list[np.ndarray]:
    """Arguments of each node (0: a digit), one array a depth, of those of `trees` trees whose length fits.

    The nodes of a depth stand in the order of their parents. Giving up a tree once it is too long
    cannot bias what is kept: it would be rejected whatever its deeper nodes are.
    """
    levels: list[tuple[np.ndarray, np.ndarray]] = []
    length = np.ones(trees)
    owner = np.arange(trees)
    for _ in range(1, MAX_DEPTH):
        word = words.random_raw(len(owner))
        arity = np.where(word & 3 == 0, 2 + _below(9, word), 0)
        levels.append((owner, arity))
        inner = arity > 0
        # an operator writes itself, its closer and its arguments where a digit writes one token
        length += np.bincount(owner[inner], weights=1 + arity[inner], minlength=trees)
        growing = inner & (length < longest)[owner]
        owner = np.repeat(owner[growing], arity[growing])
    levels.append((owner, np.zeros(len(owner), np.int64)))
    kept = (length > shortest) & (length < longest)
    return [arity[kept[owner]] for owner, arity in levels]


@dataclass(frozen=True)
class _Level:
    """The nodes of one depth: arguments, token id of digit or opener, tokens in the subtree, value."""

    arity: np.ndarray
    token: np.ndarray
    size: np.ndarray
    value: np.ndarray


def _lay_out(levels: list[np.ndarray], words: np.random.PCG64) -> Iterator[tuple[bytes, int]]:
    """Sources and values of the trees whose shapes are `levels`, with digits and operators drawn from `words`."""
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
        # a first argument follows its opener, the others follow their elder siblings
        arity, written = level.arity[inner], _before(deeper.size)
        position = written + np.repeat(position[inner] + 1 - written[_before(arity)], arity)
    for start, size, value in zip(starts.tolist(), root.size.tolist(), root.value.tolist(), strict=True):
        yield tokens[start : start + size].tobytes(), value


def _with_values(arity: np.ndarray, word: np.ndarray, below: _Level) -> _Level:
    """One depth of trees, given random words for its symbols and the depth below it."""
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
    """Uniform integers 0..bound - 1 from the upper halves of random 64-bit words (bias below bound / 2**32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


def _before(sizes: np.ndarray) -> np.ndarray:
    """Sum of the sizes before each."""
    return np.cumsum(sizes) - sizes


# --- one expression ----------------------------------------------------------------------------------


def evaluate(source: bytes) -> int:
    """Value of one expression given as token ids. Raises DataError where it is not one whole expression."""
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
            raise DataError(f"expected token ids of a ListOps expression, found {token} out of place")
    if len(stack) != 1 or len(stack[0]) != 1:
        raise DataError(f"expected one whole ListOps expression, found {len(source)} token ids that are not one")
    return stack[0][0]


def to_text(source: bytes) -> str:
    """An expression as Long Range Arena writes it, with `( ` and ` )` around every application."""
    stack: list[list[str]] = [[]]
    for token in source:
        word = VOCABULARY[token - 1]
        if OPEN <= token < CLOSE:
            stack.append([word])
            continue
        if token == CLOSE:
            opener, *arguments = stack.pop()
            # the operator is applied to one argument after the other, and last to the closer
            word = "( " * (len(arguments) + 1) + " ".join([opener, " ) ".join([*arguments, "]"]), ")"])
        stack[-1].append(word)
    return " ".join(stack[0])


# --- files -------------------------------------------------------------------------------------------

_HEADER = b"Source\tTarget"
_IDS = {word.encode(): i for i, word in enumerate(VOCABULARY, start=1)}
_DIGITS = tuple(_IDS)[:10]


def write_tsv(path: Path, expressions: Expressions) -> None:
    """Expressions as a Long Range Arena file: header, then source, tab and target, each line ended by CR LF."""
    with path.open("w", encoding="ascii", newline="\r\n") as file:
        file.write(_HEADER.decode() + "\n")
        for source, target in zip(expressions.sources, expressions.targets, strict=True):
            file.write(f"{to_text(source)}\t{target}\n")


def read_tsv(path: Path, limit: int | None = None) -> Expressions:
    """The first `limit` expressions of a Long Range Arena file; parentheses may be missing.

    Raises DataError naming the line for a wrong header, unknown tokens, bad targets and cut lines.
    """
    sources: list[bytes] = []
    targets: list[int] = []
    with path.open("rb") as file:
        header = file.readline().rstrip(b"\r\n")
        if header != _HEADER:
            raise _refused(f"{path}, line 1", "the header 'Source<tab>Target'", _shown(header))
        for number, line in enumerate(file, start=2):
            if number - 2 == limit:
                break
            source, target = _parse(line.rstrip(b"\r\n"), f"{path}, line {number}")
            sources.append(source)
            targets.append(target)
    if not sources:
        raise _refused(str(path), "expressions after the header", "none")
    return Expressions(sources, targets)


def _parse(line: bytes, where: str) -> tuple[bytes, int]:
    """Token ids and target of one line, parentheses dropped."""
    text, *target = line.split(b"\t")
    if len(target) != 1:
        raise _refused(where, "a source, one tab and a target", f"{1 + len(target)} field(s), {_shown(line)}")
    if target[0] not in _DIGITS:
        raise _refused(where, "a target of one digit", _shown(target[0]))
    try:
        source = bytes(map(_IDS.__getitem__, text.translate(None, b"()").split()))
    except KeyError as error:
        raise _refused(where, f"tokens among {' '.join(VOCABULARY)} ( )", _shown(error.args[0])) from None
    opened, closed = sum(map(source.count, range(OPEN, CLOSE))), source.count(CLOSE)
    if not source or opened != closed or (len(source) > 1 and not OPEN <= source[0] < CLOSE == source[-1]):
        raise _refused(where, "one whole expression", f"{opened} operators and {closed} ']' in {_shown(text)}")
    return source, int(target[0])


def _refused(where: str, expected: str, found: str) -> DataError:
    return DataError(
        f'{where}: expected {expected}, found {found}; give Long Range Arena\'s "basic" files '
        "(one that is cut short must be fetched or copied again)"
    )


def _shown(text: bytes) -> str:
    return repr((text if len(text) <= 40 else text[:40] + b"...").decode("ascii", "backslashreplace"))
