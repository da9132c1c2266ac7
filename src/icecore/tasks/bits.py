"""Bit memory and bit XOR: the two synthetic tasks of the paper, with an endless supply of examples.

Random numbers are drawn on the CPU as packed bytes and unpacked on the training device for all runs at once.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from icecore.core.errors import ConfigError
from icecore.core.random_streams import SPLIT, random_stream
from icecore.tasks.entry import TaskEntry, TaskRequest, paper_settings, read_options
from icecore.tasks.generated_task import GeneratedTask, require_positive
from icecore.tasks.task import Batch, TaskDefaults, TaskSpec

MEMORY_OPTIONS: Mapping[str, int] = {"strings": 5, "bits": 1000, "width": 50}
XOR_OPTIONS: Mapping[str, int] = {"n": 5}

#: bit XOR scores every pair of strings once, of which there are 4**n, up to this n
MAX_ENUMERATED_BITS = 6


class BitTask(GeneratedTask):
    """A task over random bits, scored by the share of right bits."""

    metric_name = "bit accuracy"


class BitMemory(BitTask):
    """Recall one of several bit strings from a copy with about half of its bits erased (Lu et al. 2021, section 2.1).

    An example is `strings` strings of `bits` bits in {-1, +1}, `width` bits to a token, and then one of them again,
    with each bit set to zero with probability 1/2. The whole string is read out at the n = bits / width tokens of the
    copy: tokens (N, (strings + 1) n, width), targets (N, n, width), logits (N, n, 2 width), where outputs 2j and
    2j + 1 are the scores of a 0 and a 1 in bit j. Raises ConfigError for sizes that do not fit together.
    """

    name = "bit-memory"
    # Small batches: the gradient of one example has little noise here, so it is the number of steps that counts.
    defaults = TaskDefaults(steps=4000, batch_size=8, lr=3e-3)

    def __init__(self, strings: int = 5, bits: int = 1000, width: int = 50) -> None:
        require_positive(self.name, strings=strings, bits=bits, width=width)
        if bits % width:
            raise ConfigError(
                f"bit-memory: {bits} bits cannot be divided into tokens of {width} bits. Choose bits as a multiple of "
                "width."
            )
        super().__init__(self.spec_of(strings, bits, width), {"train": 500, "val": 500, "test": 1000})
        self.strings = strings
        self.bits = bits

    @staticmethod
    def spec_of(strings: int, bits: int, width: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        n = bits // width
        return TaskSpec("continuous", (strings + 1) * n, width, 2 * width, read_positions=n)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Packed bits of strings and mask (count, bytes) uint8, and the index of the repeated string (count,)."""
        packed = _random_bytes(count, (self.strings + 1) * self.bits, generator)
        return packed, torch.randint(self.strings, (count,), generator=generator)

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples from their packed bits and the indices of their repeated strings."""
        packed, repeated = draws
        N, P = len(repeated), self.spec.size
        bits = _unpack(packed, (self.strings + 1) * self.bits).view(N, self.strings + 1, self.bits)
        answer, mask = bits[torch.arange(N, device=repeated.device), repeated], bits[:, -1]  # (N, bits) each
        inputs = _signs(bits)
        inputs[:, -1] = _signs(answer) * mask  # the masked copy takes the place of the mask
        return Batch(inputs.view(N, -1, P), answer.long().view(N, -1, P))


class BitXor(BitTask):
    """Elementwise XOR of two strings of n bits in {-1, +1}, one bit to a token (Lu et al. 2021, section 2.1).

    tokens (N, 2n, 1), targets (N, n), logits (N, n, 2). Up to n = 6 the test split is each of the 4**n pairs once, and
    the validation split a random sample of 256 of them; training draws from the same pairs, so nothing can be held
    out. For larger n, both are 2,000 random examples. Raises ConfigError for n < 1.
    """

    name = "bit-xor"
    # small batches, as for bit-memory
    defaults = TaskDefaults(steps=2000, batch_size=8, lr=3e-3, eval_every=50)

    def __init__(self, n: int = 5) -> None:
        require_positive(self.name, n=n)
        self.n = n
        self.enumerated = n <= MAX_ENUMERATED_BITS
        self.pairs = 4**n if self.enumerated else 0
        sizes = {"val": min(256, self.pairs), "test": self.pairs} if self.enumerated else {"val": 2000, "test": 2000}
        super().__init__(self.spec_of(n), {"train": 2000, **sizes})
        if self.enumerated:
            remark = f"test is each of the {self.pairs} pairs once, val some of them; training draws on the same"
            self.data = {**self.data, "remark": remark}

    @staticmethod
    def spec_of(n: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("continuous", 2 * n, 1, 2, read_positions=n)

    def relevant(self, i: int) -> tuple[int, int]:
        """The positions of the two bits that decide output i, read at the second (Lu et al. 2021, section 3.5)."""
        return i, self.n + i

    def draw(self, count: int, generator: Generator) -> tuple[Tensor]:
        """Packed bits of both strings (count, bytes) uint8."""
        return (_random_bytes(count, 2 * self.n, generator),)

    def split_draws(self, split: str, rows: range) -> tuple[Tensor, ...]:
        """The packed bits of the pairs `rows` of a split. Of enumerated pairs, pair k has the bits of the number k."""
        if not self.enumerated or split == "train":
            return super().split_draws(split, rows)
        order = (
            torch.arange(self.pairs)
            if split == "test"
            else torch.randperm(self.pairs, generator=random_stream(0, SPLIT))
        )
        # Two bytes are enough for the at most 12 bits of a pair.
        return ((order[rows.start : rows.stop, None] >> torch.tensor([0, 8]) & 0xFF).to(torch.uint8),)

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N pairs from their packed bits."""
        bits = _unpack(draws[0], 2 * self.n)
        return Batch(_signs(bits)[..., None], (bits[:, : self.n] ^ bits[:, self.n :]).long())


def build_bit_memory(request: TaskRequest) -> BitMemory:
    """Bit memory with the request's options (see `MEMORY_OPTIONS`). Raises ConfigError."""
    return BitMemory(**read_options(request, BitMemory.name, MEMORY_OPTIONS))


def build_bit_xor(request: TaskRequest) -> BitXor:
    """Bit XOR with the request's options (see `XOR_OPTIONS`). Raises ConfigError."""
    return BitXor(**read_options(request, BitXor.name, XOR_OPTIONS))


BIT_MEMORY = TaskEntry(
    BitMemory,
    build_bit_memory,
    lambda options: BitMemory.spec_of(**options),
    "recall one of five strings of 1,000 bits from a half-masked copy",
    paper_settings(10_000, 16),
    MEMORY_OPTIONS,
)
BIT_XOR = TaskEntry(
    BitXor,
    build_bit_xor,
    lambda options: BitXor.spec_of(**options),
    "elementwise XOR of two strings of n bits",
    paper_settings(500, 4),
    XOR_OPTIONS,
)


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
