"""Procedural tasks on which a random body can be pretrained without any data: copying, nested brackets, automata.

They ask the question of Lu et al. 2021 in its purest form: what must a body have learned to be a computation engine, if
it never saw language? `icecore pretrain` trains a whole body on one of them.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from icecore.tasks.entry import TaskEntry, TaskRequest, paper_settings, read_options
from icecore.tasks.generated_task import GeneratedTask, require_positive
from icecore.tasks.task import Batch, TaskDefaults, TaskSpec

COPY_OPTIONS: Mapping[str, int] = {"length": 32, "symbols": 16}
DYCK_OPTIONS: Mapping[str, int] = {"length": 64, "kinds": 4}
NCA_OPTIONS: Mapping[str, int] = {"width": 16, "rows": 4, "states": 4}

PROCEDURAL_SPLITS: Mapping[str, int] = {"train": 500, "val": 500, "test": 1000}
#: width of the hidden layer of a cellular automaton's rule
RULE_WIDTH = 8


class Copy(GeneratedTask):
    """Copying: a random sequence, and then as many blanks, at which it is to be repeated.

    tokens (N, 2 * length), targets (N, length). Raises ConfigError for sizes below 1.
    """

    name = "copy"
    defaults = TaskDefaults(steps=2000, batch_size=32)

    def __init__(self, length: int = 32, symbols: int = 16) -> None:
        require_positive(self.name, length=length, symbols=symbols)
        super().__init__(self.spec_of(length, symbols), PROCEDURAL_SPLITS)
        self.length, self.symbols = length, symbols

    @staticmethod
    def spec_of(length: int, symbols: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("discrete", 2 * length, symbols + 1, symbols, read_positions=length)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor]:
        """The sequences (count, length)."""
        return (torch.randint(self.symbols, (count, self.length), generator=generator),)

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples."""
        (sequence,) = draws
        return Batch(torch.cat([sequence, torch.full_like(sequence, self.symbols)], 1), sequence)


class Dyck(GeneratedTask):
    """Nested brackets of several kinds: at each position, which bracket has to be closed next.

    tokens (N, length): an opening bracket of kind k is k, a closing one `kinds` + k. targets (N, length): the kind of
    the innermost bracket that is open after this position, or `kinds` if none is. Brackets open and close with equal
    probability. Raises ConfigError for sizes below 1.
    """

    name = "dyck"
    defaults = TaskDefaults(steps=2000, batch_size=32)

    def __init__(self, length: int = 64, kinds: int = 4) -> None:
        require_positive(self.name, length=length, kinds=kinds)
        super().__init__(self.spec_of(length, kinds), PROCEDURAL_SPLITS)
        self.length, self.kinds = length, kinds

    @staticmethod
    def spec_of(length: int, kinds: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("discrete", length, 2 * kinds, kinds + 1, read_positions=length)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Whether each position would open a bracket (count, length), and of which kind (count, length)."""
        opens = torch.rand(count, self.length, generator=generator) < 0.5
        return opens, torch.randint(self.kinds, (count, self.length), generator=generator)

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples."""
        opens, kinds = draws
        N, T = kinds.shape
        rows = torch.arange(N, device=kinds.device)
        # the stack of open brackets; its bottom says that there is none
        stack = torch.full((N, T + 1), self.kinds, device=kinds.device)
        height = torch.zeros(N, dtype=torch.int64, device=kinds.device)
        tokens, targets = torch.empty_like(kinds), torch.empty_like(kinds)
        for t in range(T):
            opening = opens[:, t] | (height == 0)
            tokens[:, t] = torch.where(opening, kinds[:, t], self.kinds + stack[rows, height])
            height = height + torch.where(opening, 1, -1)
            stack[rows[opening], height[opening]] = kinds[opening, t]
            targets[:, t] = stack[rows, height]
        return Batch(tokens, targets)


class NeuralCellularAutomaton(GeneratedTask):
    """The next row of a cellular automaton whose rule has to be inferred from the rows before.

    An automaton is a ring of `width` cells of some `states`. The next state of a cell is what a small random network
    says of the cell and its two neighbours, another network in each example. tokens (N, (rows + 1) * width): `rows`
    rows, and then blanks, at which the next row is read out; targets (N, width). Raises ConfigError for sizes below 1.
    """

    name = "nca"
    defaults = TaskDefaults(steps=2000, batch_size=32)

    def __init__(self, width: int = 16, rows: int = 4, states: int = 4) -> None:
        require_positive(self.name, width=width, rows=rows, states=states)
        super().__init__(self.spec_of(width, rows, states), PROCEDURAL_SPLITS)
        self.width, self.rows, self.states = width, rows, states

    @staticmethod
    def spec_of(width: int, rows: int, states: int) -> TaskSpec:
        """Sizes of the task for values of its options."""
        return TaskSpec("discrete", (rows + 1) * width, states + 1, states, read_positions=width)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor]:
        """All rows (count, rows + 1, width), the first one random."""
        S = self.states
        inner = torch.randn(count, 3 * S, RULE_WIDTH, generator=generator)
        outer = torch.randn(count, RULE_WIDTH, S, generator=generator)
        rows = [torch.randint(S, (count, self.width), generator=generator)]
        for _ in range(self.rows):
            cells = F.one_hot(rows[-1], S).float()
            seen = torch.cat([cells.roll(1, 1), cells, cells.roll(-1, 1)], -1)
            rows.append(((seen @ inner).tanh() @ outer).argmax(-1))
        return (torch.stack(rows, 1),)

    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples."""
        (rows,) = draws
        shown, target = rows[:, :-1].flatten(1), rows[:, -1]
        return Batch(torch.cat([shown, torch.full_like(target, self.states)], 1), target)


def build_copy(request: TaskRequest) -> Copy:
    """Copying with the request's options (see `COPY_OPTIONS`). Raises ConfigError."""
    return Copy(**read_options(request, Copy.name, COPY_OPTIONS))


def build_dyck(request: TaskRequest) -> Dyck:
    """Nested brackets with the request's options (see `DYCK_OPTIONS`). Raises ConfigError."""
    return Dyck(**read_options(request, Dyck.name, DYCK_OPTIONS))


def build_nca(request: TaskRequest) -> NeuralCellularAutomaton:
    """Cellular automata with the request's options (see `NCA_OPTIONS`). Raises ConfigError."""
    return NeuralCellularAutomaton(**read_options(request, NeuralCellularAutomaton.name, NCA_OPTIONS))


COPY = TaskEntry(
    Copy,
    build_copy,
    lambda options: Copy.spec_of(**options),
    "repeat a random sequence",
    paper_settings(10_000, 16),
    COPY_OPTIONS,
)
DYCK = TaskEntry(
    Dyck,
    build_dyck,
    lambda options: Dyck.spec_of(**options),
    "the bracket to close next, at each position of nested brackets",
    paper_settings(10_000, 16),
    DYCK_OPTIONS,
)
NCA = TaskEntry(
    NeuralCellularAutomaton,
    build_nca,
    lambda options: NeuralCellularAutomaton.spec_of(**options),
    "the next row of a random cellular automaton",
    paper_settings(10_000, 16),
    NCA_OPTIONS,
)
