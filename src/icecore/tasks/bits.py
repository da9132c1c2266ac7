"""Bit memory and bit XOR: the two synthetic tasks of the paper, with examples that never run out.

A training example is a pure function of (run seed, step, row), one of another split of (split, row).
Random numbers are drawn on the CPU, packed, and unpacked on the training device for all runs at once.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from icecore.core.device import to_device
from icecore.core.errors import ConfigError
from icecore.tasks.task import (
    EXAMPLES,
    SPLIT,
    Batch,
    Task,
    TaskDefaults,
    TaskRequest,
    TaskSpec,
    random_stream,
    read_options,
)

MEMORY_OPTIONS: Mapping[str, int] = {"strings": 5, "bits": 1000, "width": 50}
XOR_OPTIONS: Mapping[str, int] = {"n": 5}

# BitXor scores every pair of strings once where there are at most this many (n <= 6).
ENUMERATED = 4096


class BitTask(Task):
    """A task over random bits. Subclasses say what an example draws and how draws become tokens.

    Besides the endless training stream, each split is a fixed sequence of `sizes[split]` examples:
    "train" is a sample of the training distribution, drawn apart from that stream.
    """

    metric_name = "bit accuracy"

    def __init__(self, spec: TaskSpec, sizes: Mapping[str, int]) -> None:
        self.spec = spec
        self.sizes = dict(sizes)
        self.device = torch.device("cpu")
        self.data = {"source": "generated; training examples are drawn afresh from (seed, step)", **sizes}

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> tuple[Tensor, ...]:
        """The random numbers of `count` examples, each tensor with leading axis `count`."""

    @abstractmethod
    def assemble(self, *draws: Tensor) -> Batch:
        """Draws of N examples to their tokens and targets, on the draws' device."""

    def held(self, split: str, rows: range) -> tuple[Tensor, ...]:
        """The random numbers of examples `rows` of a fixed split."""
        code = list(self.sizes).index(split)
        return _join(self.draw(1, random_stream(0, SPLIT, code, row)) for row in rows)

    def to(self, device: torch.device) -> "BitTask":
        """Assemble examples on `device` from now on."""
        self.device = device
        return self

    def train_batch(self, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        """Fresh examples of one step for R runs, run-major: N = R * B rows."""
        return self._batch(_join(self.draw(batch_size, random_stream(seed, EXAMPLES, step)) for seed in seeds))

    def split_size(self, split: str) -> int:
        """Number of examples of a fixed split."""
        return self.sizes[split]

    def batches(self, split: str, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """The fixed split in order; which examples it holds does not depend on `batch_size`."""
        rows = range(self.sizes[split])[:limit]
        for first in range(0, len(rows), batch_size):
            yield self._batch(self.held(split, rows[first : first + batch_size]))

    def _batch(self, draws: Iterable[Tensor]) -> Batch:
        return self.assemble(*(to_device(draw, self.device) for draw in draws))


class BitMemory(BitTask):
    """Recall one of several bit strings from a copy with about half of its bits erased (Lu et al. 2021, section 2.1).

    `strings` strings of `bits` bits in {-1, +1}, `width` to a token, then one of them again, each bit
    zeroed with probability 1/2. The whole string is read from the copy's n = bits / width tokens:
    tokens (N, (strings + 1) n, width), targets (N, n, width), logits (N, n, 2 width), where outputs
    2j and 2j + 1 score a 0 and a 1 in bit j. Raises ConfigError for sizes that do not fit.
    """

    name = "bit-memory"
    defaults = TaskDefaults(steps=2000, batch_size=16)

    def __init__(self, strings: int = 5, bits: int = 1000, width: int = 50) -> None:
        _positive(self.name, strings=strings, bits=bits, width=width)
        if bits % width:
            raise ConfigError(f"bit-memory: {bits} bits do not fill tokens of width {width}; give a multiple of it")
        n = bits // width
        spec = TaskSpec("continuous", (strings + 1) * n, width, 2 * width, read_positions=n)
        super().__init__(spec, {"train": 500, "val": 500, "test": 1000})
        self.strings = strings
        self.bits = bits

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Bits of the strings and of the mask, packed, (count, bytes) uint8; the string asked for, (count,) int64."""
        packed = _random_bytes(count, (self.strings + 1) * self.bits, generator)
        return packed, torch.randint(self.strings, (count,), generator=generator)

    def assemble(self, *draws: Tensor) -> Batch:
        """Packed bits and strings asked for, of N examples, to tokens and targets."""
        packed, asked = draws
        N, P = len(asked), self.spec.size
        drawn = _unpack(packed, (self.strings + 1) * self.bits).view(N, self.strings + 1, self.bits)
        answer, kept = drawn[torch.arange(N, device=asked.device), asked], drawn[:, -1]  # (N, bits) each
        shown = _signs(drawn)
        shown[:, -1] = _signs(answer) * kept  # the copy takes the place of its mask
        return Batch(shown.view(N, -1, P), answer.long().view(N, -1, P))


class BitXor(BitTask):
    """Elementwise XOR of two strings of n bits in {-1, +1}, one bit a token (Lu et al. 2021, section 2.1).

    tokens (N, 2n, 1), targets (N, n), logits (N, n, 2). Up to n = 6 the test split is every one of the
    4**n pairs once, and val a seeded sample of 256 of them (training draws from the same pairs: there
    is nothing to hold out); beyond, val and test are 2,000 random examples each. Raises ConfigError for n < 1.
    """

    name = "bit-xor"
    defaults = TaskDefaults(steps=1000, batch_size=32, eval_every=50)

    def __init__(self, n: int = 5) -> None:
        _positive(self.name, n=n)
        self.n = n
        self.pairs = 4**n
        self.enumerated = self.pairs <= ENUMERATED
        held = {"val": min(256, self.pairs), "test": self.pairs} if self.enumerated else {"val": 2000, "test": 2000}
        super().__init__(TaskSpec("continuous", 2 * n, 1, 2, read_positions=n), {"train": 2000, **held})
        if self.enumerated:
            remark = f"test is each of the {self.pairs} pairs once, val some of them; training draws on the same"
            self.data = {**self.data, "remark": remark}

    def relevant(self, i: int) -> tuple[int, int]:
        """The two positions whose bits decide output i, which is read at the second (Lu et al. 2021, section 3.5)."""
        return i, self.n + i

    def draw(self, count: int, generator: Generator) -> tuple[Tensor]:
        """Bits of both strings, packed, (count, bytes) uint8."""
        return (_random_bytes(count, 2 * self.n, generator),)

    def held(self, split: str, rows: range) -> tuple[Tensor, ...]:
        """The packed bits of pairs `rows` of a split, counted out where the pairs are enumerated."""
        if not self.enumerated or split == "train":
            return super().held(split, rows)
        order = (
            torch.arange(self.pairs)
            if split == "test"
            else torch.randperm(self.pairs, generator=random_stream(0, SPLIT))
        )
        # the bits of pair k are those of the number k: two bytes hold the at most 12 of them
        return ((order[rows.start : rows.stop, None] >> torch.tensor([0, 8]) & 0xFF).to(torch.uint8),)

    def assemble(self, *draws: Tensor) -> Batch:
        """Packed bits of N pairs to tokens and targets."""
        bits = _unpack(draws[0], 2 * self.n)
        return Batch(_signs(bits)[..., None], (bits[:, : self.n] ^ bits[:, self.n :]).long())


def build_bit_memory(request: TaskRequest) -> BitMemory:
    """Bit memory with the request's options (see `MEMORY_OPTIONS`). Raises ConfigError."""
    return BitMemory(**read_options(request, BitMemory.name, MEMORY_OPTIONS))


def build_bit_xor(request: TaskRequest) -> BitXor:
    """Bit XOR with the request's options (see `XOR_OPTIONS`). Raises ConfigError."""
    return BitXor(**read_options(request, BitXor.name, XOR_OPTIONS))


def _positive(task: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"option {name} of {task}: expected at least 1, found {size}")


def _join(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Draws of several examples or runs as one."""
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _random_bytes(count: int, bits: int, generator: Generator) -> Tensor:
    """At least `bits` random bits for each of `count` examples, packed: (count, ceil(bits / 8)) uint8."""
    return torch.randint(256, (count, -(-bits // 8)), dtype=torch.uint8, generator=generator)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """The first `bits` bits of each row, lowest bit of a byte first: (N, bytes) uint8 -> (N, bits) bool."""
    masks = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=packed.device)
    return (packed[..., None] & masks).ne(0).flatten(1)[:, :bits]


def _signs(bits: Tensor) -> Tensor:
    """Bits as numbers: False to -1.0, True to +1.0."""
    return bits.float().mul_(2).sub_(1)
