"""Four algorithmic tasks that random transformers can do (Zhong and Andreas 2024, arXiv 2410.04368).

Modular addition, needle in a haystack, decimal addition and parenthesis balancing, over discrete tokens. The paper's
models write their answers one token after the other. Here the answer is read out in one pass, so that bodies that see
all positions can be compared with causal ones.
"""

import random
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from icecore.core.errors import ConfigError
from icecore.core.random_streams import SPLIT, random_stream
from icecore.tasks.entry import TaskEntry, TaskRequest, paper_settings, read_options
from icecore.tasks.generated_task import GeneratedTask, require_positive
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import Batch, TaskDefaults, TaskSpec

MODULUS_OPTIONS: Mapping[str, int] = {"modulus": 199}
NEEDLE_OPTIONS: Mapping[str, int] = {"needles": 30, "values": 127}
ADDITION_OPTIONS: Mapping[str, int] = {"digits": 10}
PARENTHESIS_OPTIONS: Mapping[str, int] = {"pairs": 30}

#: all pairs of numbers below the modulus are stored
MAX_MODULUS = 4096
#: share of all pairs that modular addition holds out for the test, and again for validation
HELD_OUT = 0.05
ALGORITHM_SPLITS: Mapping[str, int] = {"train": 1000, "val": 1000, "test": 4000}
# tokens of decimal addition after the ten digits, and of parenthesis balancing
PLUS, EQUALS, BLANK = 10, 11, 12
OPENING, CLOSING, QUESTION = 0, 1, 2


class ModularAddition(StoredTask):
    """The sum of two numbers below the modulus p, modulo p: tokens (N, 2), targets (N,).

    The splits are disjoint parts of all p * p pairs: 5 % for the test, 5 % for validation. Raises ConfigError for a
    modulus below 5, of which no pairs can be held out.
    """

    name = "modular-addition"
    defaults = TaskDefaults(steps=4000, batch_size=64, lr=3e-3)

    def __init__(self, modulus: int = 199) -> None:
        if not 5 <= modulus <= MAX_MODULUS:
            raise ConfigError(f"option modulus of {self.name}: expected 5 to {MAX_MODULUS:,}, found {modulus}")
        self.spec = self.spec_of(modulus)
        count = modulus**2
        order = torch.randperm(count, generator=random_stream(0, SPLIT))
        pairs = torch.stack([order // modulus, order % modulus], 1)
        held_out = max(1, round(HELD_OUT * count))
        bounds = {"test": (0, held_out), "val": (held_out, 2 * held_out), "train": (2 * held_out, count)}
        splits = {name: Examples(pairs[a:b], pairs[a:b].sum(1) % modulus) for name, (a, b) in bounds.items()}
        counts = {name: len(part) for name, part in splits.items()}
        super().__init__(splits, {"source": "all pairs of numbers, divided at random", "counts": counts})

    @staticmethod
    def spec_of(modulus: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("discrete", 2, modulus, modulus)

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """The pairs (N, 2) themselves."""
        return inputs


class Needle(GeneratedTask):
    """Needle in a haystack: the value that follows a given marker among up to `needles` pairs of marker and value.

    An example is marker, value, marker, value, ..., query: tokens (N, T) with T up to 2 * needles + 1, markers all
    different, as many pairs as a uniform draw says. Values have the tokens 0 to V - 1, markers the next, and queries,
    which name a marker, the last. targets (N,) are values. Raises ConfigError for sizes below 1.
    """

    name = "needle"
    defaults = TaskDefaults(steps=4000, batch_size=32, lr=3e-3)

    def __init__(self, needles: int = 30, values: int = 127) -> None:
        require_positive(self.name, needles=needles, values=values)
        super().__init__(self.spec_of(needles, values), ALGORITHM_SPLITS)
        self.needles, self.values = needles, values

    @staticmethod
    def spec_of(needles: int, values: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("discrete", 2 * needles + 1, values + 2 * needles, values)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, ...]:
        """The number of pairs (count,), markers and values (count, needles), and which pair is asked for (count,)."""
        pairs = torch.randint(1, self.needles + 1, (count,), generator=generator)
        markers = torch.rand(count, self.needles, generator=generator).argsort(1)
        values = torch.randint(self.values, (count, self.needles), generator=generator)
        asked = (torch.rand(count, generator=generator) * pairs).long()
        return pairs, markers, values, asked

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples."""
        pairs, markers, values, asked = draws
        rows = torch.arange(len(pairs), device=pairs.device)
        tokens = torch.zeros(len(pairs), self.spec.length, dtype=torch.int64, device=pairs.device)
        tokens[:, 0:-1:2], tokens[:, 1::2] = markers + self.values, values
        tokens[rows, 2 * pairs] = markers[rows, asked] + self.values + self.needles
        lengths = (2 * pairs + 1).cpu()
        T = int(lengths.max())
        real = torch.arange(T, device=pairs.device) <= 2 * pairs[:, None]
        return Batch(tokens[:, :T] * real, values[rows, asked], lengths)


class DecimalAddition(GeneratedTask):
    """The sum of two numbers of `digits` digits, lowest digit first.

    tokens (N, 3 * digits + 3): the digits of both numbers with "+" between, "=", and a blank for each digit of the sum,
    at which it is read out; targets (N, digits + 1). The first digit of a number is not zero. Raises ConfigError for
    less than 1 digit.
    """

    name = "decimal-addition"
    metric_name = "digit accuracy"
    defaults = TaskDefaults(steps=4000, batch_size=32, lr=3e-3)

    def __init__(self, digits: int = 10) -> None:
        require_positive(self.name, digits=digits)
        super().__init__(self.spec_of(digits), ALGORITHM_SPLITS)
        self.digits = digits

    @staticmethod
    def spec_of(digits: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("discrete", 3 * digits + 3, 13, 10, read_positions=digits + 1)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor]:
        """The digits (count, 2, digits) of both numbers, lowest first."""
        numbers = torch.randint(10, (count, 2, self.digits), generator=generator)
        numbers[..., -1] = torch.randint(1, 10, (count, 2), generator=generator)
        return (numbers,)

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples."""
        (numbers,) = draws
        column, carry, sums = numbers.sum(1), numbers.new_zeros(len(numbers)), []
        for place in range(self.digits):
            total = column[:, place] + carry
            sums.append(total % 10)
            carry = total // 10
        blanks = numbers.new_full((len(numbers), self.digits + 1), BLANK)
        plus, equals = (numbers.new_full((len(numbers), 1), sign) for sign in (PLUS, EQUALS))
        return Batch(torch.cat([numbers[:, 0], plus, numbers[:, 1], equals, blanks], 1), torch.stack([*sums, carry], 1))


class ParenthesisBalancing(GeneratedTask):
    """Whether a string of up to `pairs` pairs of parentheses is balanced.

    tokens (N, T): the string and "?", T up to 2 * pairs + 1; targets (N,) are 1 if it is balanced. A third of the
    strings is random, a third is balanced, and a third was balanced before some characters were flipped or exchanged.
    Raises ConfigError for less than 1 pair.
    """

    name = "parenthesis-balancing"
    defaults = TaskDefaults(steps=4000, batch_size=32, lr=3e-3)

    def __init__(self, pairs: int = 30) -> None:
        require_positive(self.name, pairs=pairs)
        super().__init__(self.spec_of(pairs), ALGORITHM_SPLITS)
        self.pairs = pairs

    @staticmethod
    def spec_of(pairs: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("discrete", 2 * pairs + 1, 3, 2)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """The strings (count, T) with zeros after their end, and their lengths (count,)."""
        strings = [self._string(seed) for seed in torch.randint(2**62, (count,), generator=generator).tolist()]
        tokens = torch.zeros(count, self.spec.length, dtype=torch.int64)
        for row, string in enumerate(strings):
            tokens[row, : len(string) + 1] = torch.tensor([*string, QUESTION])
        return tokens, torch.tensor([len(string) + 1 for string in strings])

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples."""
        tokens, lengths = draws
        # the height after each character; what follows the string adds nothing
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None] - 1
        height = ((1 - 2 * tokens) * inside).cumsum(1)
        balanced = (height[:, -1] == 0) & (height.amin(1) >= 0)
        lengths = lengths.cpu()
        return Batch(tokens[:, : int(lengths.max())], balanced.long(), lengths)

    def _string(self, seed: int) -> list[int]:
        """A string of OPENING and CLOSING that depends on the seed only."""
        # examples are no secrets
        draws = random.Random(seed)  # nosec B311
        kind = draws.randrange(3)
        if kind == 0:
            return [draws.choice((OPENING, CLOSING)) for _ in range(draws.randint(1, 2 * self.pairs))]
        string = _balanced(draws, draws.randint(1, self.pairs))
        while kind == 2:
            first, second = (draws.randrange(len(string)) for _ in range(2))
            if draws.random() < 0.5:
                string[first] = OPENING + CLOSING - string[first]
            else:
                string[first], string[second] = string[second], string[first]
            if draws.random() < 0.5:
                break
        return string


def _balanced(draws: random.Random, pairs: int) -> list[int]:
    """A balanced string, each with the same probability (Arnold and Sleep 1980)."""
    string: list[int] = []
    height = 0
    for left in range(2 * pairs, 0, -1):
        opens = draws.random() < (height + 2) * (left - height) / (2 * left * (height + 1))
        string.append(OPENING if opens else CLOSING)
        height += 1 if opens else -1
    return string


def build_modular_addition(request: TaskRequest) -> ModularAddition:
    """Modular addition with the request's options (see `MODULUS_OPTIONS`). Raises ConfigError."""
    return ModularAddition(**read_options(request, ModularAddition.name, MODULUS_OPTIONS))


def build_needle(request: TaskRequest) -> Needle:
    """Needle in a haystack with the request's options (see `NEEDLE_OPTIONS`). Raises ConfigError."""
    return Needle(**read_options(request, Needle.name, NEEDLE_OPTIONS))


def build_decimal_addition(request: TaskRequest) -> DecimalAddition:
    """Decimal addition with the request's options (see `ADDITION_OPTIONS`). Raises ConfigError."""
    return DecimalAddition(**read_options(request, DecimalAddition.name, ADDITION_OPTIONS))


def build_parenthesis_balancing(request: TaskRequest) -> ParenthesisBalancing:
    """Parenthesis balancing with the request's options (see `PARENTHESIS_OPTIONS`). Raises ConfigError."""
    return ParenthesisBalancing(**read_options(request, ParenthesisBalancing.name, PARENTHESIS_OPTIONS))


# Zhong and Andreas train for 5,000 to 10,000 steps of up to 4,000 examples at 1e-3; the paper protocol's batches are
# those of Lu et al. 2021.
MODULAR_ADDITION = TaskEntry(
    ModularAddition,
    build_modular_addition,
    lambda options: ModularAddition.spec_of(**options),
    "sum of two numbers modulo 199",
    paper_settings(20_000, 16),
    MODULUS_OPTIONS,
)
NEEDLE = TaskEntry(
    Needle,
    build_needle,
    lambda options: Needle.spec_of(**options),
    "the value beside a marker among up to 30 pairs",
    paper_settings(20_000, 16),
    NEEDLE_OPTIONS,
    typical_length=lambda options: options["needles"] + 2,
)
DECIMAL_ADDITION = TaskEntry(
    DecimalAddition,
    build_decimal_addition,
    lambda options: DecimalAddition.spec_of(**options),
    "sum of two numbers of ten digits",
    paper_settings(20_000, 16),
    ADDITION_OPTIONS,
)
PARENTHESIS_BALANCING = TaskEntry(
    ParenthesisBalancing,
    build_parenthesis_balancing,
    lambda options: ParenthesisBalancing.spec_of(**options),
    "whether a string of parentheses is balanced",
    paper_settings(20_000, 16),
    PARENTHESIS_OPTIONS,
    typical_length=lambda options: options["pairs"] + 2,
)
