"""ListOps: nested MIN MAX MED SM over digits, drawn, read and written as Long Range Arena's "basic" task.

Trees are drawn level by level, many at once, so that 100,000 expressions take seconds; their values are
computed while they are laid out. Generated data are cached; Long Range Arena's own files are used if found.
"""

import hashlib
import itertools
import statistics
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icecore.errors import ConfigError, DataError
from icecore.storage import write_atomic
from icecore.tasks.files import cache_dir, data_roots, find
from icecore.tasks.task import Examples, StoredTask, TaskDefaults, TaskRequest, TaskSpec, read_options

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

LISTOPS_OPTIONS: Mapping[str, int] = {"train": 96_000, "val": 2_000, "test": 2_000, "length": MAX_LENGTH}
TOKENS_FAULT = "listops-tokens"
FAULT_LENGTH = 512

Progress = Callable[[int, int], None]
"""Called with (expressions drawn, expressions asked for)."""


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


def generate(count: int, seed: int = 0, progress: Progress | None = None) -> Expressions:
    """`count` different expressions by Long Range Arena's rule; the first ones do not depend on `count`.

    A node above depth 10 is, with probability 1/4, an operator with 2..10 arguments, else a digit, all
    drawn uniformly; trees of 501..1999 tokens are kept. Only raw words of PCG64 are used: NumPy keeps
    that stream the same for ever, unlike the streams of its distributions.
    """
    words = np.random.PCG64(seed)
    found: dict[bytes, int] = {}
    while len(found) < count:
        levels = _draw_shapes(words, trees=8192)
        if len(levels[0]):
            found.update(_lay_out(levels, words))
            if progress is not None:
                progress(min(len(found), count), count)
    return Expressions(list(found), list(found.values())).part(0, count)


def _draw_shapes(words: np.random.PCG64, trees: int) -> list[np.ndarray]:
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
        growing = inner & (length < MAX_LENGTH)[owner]
        owner = np.repeat(owner[growing], arity[growing])
    levels.append((owner, np.zeros(len(owner), np.int64)))
    kept = (length > MIN_LENGTH) & (length < MAX_LENGTH)
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


def load_generated(count: int, seed: int = 0, progress: Progress | None = None) -> Expressions:
    """`generate`, kept in the cache folder. A damaged cache file fails its checksum and is drawn again.

    Raises StorageError where the cache cannot be written.
    """
    path = cache_dir() / "listops" / f"basic-v1-seed{seed}-{count}.npz"
    try:
        return _load(path)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        expressions = generate(count, seed, progress)
    # other processes may write the same file at this moment: each its own copy, then one atomic step
    write_atomic(path, lambda own: _save(own, expressions), "name another folder with ICECORE_CACHE")
    return expressions


def _save(path: Path, expressions: Expressions) -> None:
    lengths = np.array([len(source) for source in expressions.sources])
    tokens = np.frombuffer(b"".join(expressions.sources), np.uint8)
    with path.open("wb") as file:
        np.savez(file, tokens=tokens, lengths=lengths, targets=np.array(expressions.targets, np.uint8))


def _load(path: Path) -> Expressions:
    with path.open("rb") as file, np.load(file) as arrays:
        tokens, lengths, targets = arrays["tokens"].tobytes(), arrays["lengths"], arrays["targets"]
    ends = np.cumsum(lengths)
    sources = [tokens[first:last] for first, last in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]
    return Expressions(sources, targets.tolist())


# --- the task ----------------------------------------------------------------------------------------


class ListOps(StoredTask):
    """The value, one of ten digits, of an expression of at most `length` tokens; longer ones lose their end.

    tokens (N, T) int64 of the 15 words and padding 0, targets (N,). With `published_tokens` every `]` is
    dropped and 512 tokens are kept, as the published code did (docs/method.md).
    """

    name = "listops"
    defaults = TaskDefaults(steps=2000, batch_size=16)

    def __init__(
        self,
        splits: Mapping[str, Expressions],
        length: int = MAX_LENGTH,
        published_tokens: bool = False,
        source: str = "generated",
    ) -> None:
        if published_tokens:
            length = min(length, FAULT_LENGTH)
        dropped = bytes([CLOSE]) if published_tokens else b""
        self.spec = TaskSpec("discrete", length, 1 + len(VOCABULARY), 10)
        data = {"source": source}
        for name, part in splits.items():
            data |= {f"{name}_examples": len(part), f"{name}_sha256": part.digest()}
        super().__init__({name: _padded(part, length, dropped) for name, part in splits.items()}, data)

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Token ids (N, T) uint8 to int64."""
        return inputs.long()


def _padded(part: Expressions, length: int, dropped: bytes) -> Examples:
    sources = [source.translate(None, dropped)[:length] for source in part.sources]
    lengths = [len(source) for source in sources]
    rows = np.zeros((len(sources), max(lengths)), np.uint8)
    for row, source in zip(rows, sources, strict=True):
        row[: len(source)] = np.frombuffer(source, np.uint8)
    return Examples(torch.from_numpy(rows), torch.tensor(part.targets), torch.tensor(lengths))


def build_listops(request: TaskRequest, progress: Progress | None = None) -> ListOps:
    """ListOps from Long Range Arena's files where there are some, else generated (options: `LISTOPS_OPTIONS`).

    `train`, `val` and `test` are the sizes of the splits, at most those of the files. Raises ConfigError, DataError.
    """
    options = read_options(request, ListOps.name, LISTOPS_OPTIONS)
    for name, value in options.items():
        if value < 1:
            raise ConfigError(f"option {name} of listops: expected at least 1, found {value}")
    length = options.pop("length")
    folder = _folder(request.data_dir)
    if folder is not None:
        splits = {name: read_tsv(folder / f"basic_{name}.tsv", size) for name, size in options.items()}
        source = f"{folder.name}/basic_*.tsv"
    else:
        splits = _split(load_generated(sum(options.values()), progress=progress), options)
        source = "generated by Long Range Arena's basic rule, seed 0"
    return ListOps(splits, length, TOKENS_FAULT in request.faults, source)


def _split(expressions: Expressions, sizes: Mapping[str, int]) -> dict[str, Expressions]:
    """Test, val and train one after the other: a smaller training split leaves the other two as they are."""
    ends = {"test": sizes["test"], "val": sizes["test"] + sizes["val"], "train": sum(sizes.values())}
    return {name: expressions.part(ends[name] - size, ends[name]) for name, size in sizes.items()}


def _folder(data_dir: str | None) -> Path | None:
    """The folder with Long Range Arena's three files, or None. Raises DataError if it holds only some."""
    names = [f"basic_{split}.tsv" for split in ("train", "val", "test")]
    places = ("listops/", "lra_release/listops-1000/", "")
    first = find(data_roots(data_dir), [place + name for place in places for name in names])
    if first is None:
        return None
    absent = [name for name in names if not (first.parent / name).exists()]
    if absent:
        raise DataError(
            f"{first.parent}: found {first.name} but not {' and '.join(absent)}; put all three there, "
            "or none to have the data generated"
        )
    return first.parent
