"""GeneratedTask: a task with an endless supply of examples. A subclass says what an example draws, and what it is.

A training example depends on (run seed, step, row) only, one of a fixed split on (split, row), so runs can be resumed
exactly and packed.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from icecore.core.device import to_device
from icecore.core.errors import ConfigError
from icecore.core.random_streams import EXAMPLES, SPLIT, random_stream
from icecore.tasks.task import Batch, Task, TaskSpec

#: numbers of an example, in its tokens or in its outputs: more would take gigabytes in a batch
MAX_NUMBERS = 2**24


class GeneratedTask(Task):
    """A task over random examples. A subclass says what an example draws and how the draws become tokens.

    Besides the endless training stream, each split is a fixed sequence of `sizes[split]` examples. The split "train"
    is a sample from the distribution of training examples, drawn separately from that stream.
    """

    def __init__(self, spec: TaskSpec, sizes: Mapping[str, int]) -> None:
        require_fewer(self.name, spec)
        self.spec = spec
        self.sizes = dict(sizes)
        self.device = torch.device("cpu")
        self.data = {"source": "generated; training examples are drawn afresh from (seed, step)", **sizes}

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> tuple[Tensor, ...]:
        """The random numbers of `count` examples; each tensor has the leading axis `count`."""

    @abstractmethod
    def assemble(self, *draws: Tensor) -> Batch:
        """Tokens and targets of N examples from their random numbers, on the same device."""

    def split_draws(self, split: str, rows: range) -> tuple[Tensor, ...]:
        """The random numbers of the examples `rows` of a fixed split."""
        split_number = list(self.sizes).index(split)
        return concatenate(self.draw(1, random_stream(0, SPLIT, split_number, row)) for row in rows)

    def to(self, device: torch.device) -> "GeneratedTask":
        """Assemble examples on `device` from now on, and return the task."""
        self.device = device
        return self

    def train_batch(self, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        """New examples of one step for R runs, run-major: N = R * B rows."""
        return self._batch(concatenate(self.draw(batch_size, random_stream(seed, EXAMPLES, step)) for seed in seeds))

    def split_size(self, split: str) -> int:
        """The number of examples of a fixed split."""
        return self.sizes[split]

    def batches(self, split: str, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """The fixed split in order. The examples do not depend on `batch_size`."""
        rows = range(self.sizes[split])[:limit]
        for first in range(0, len(rows), batch_size):
            yield self._batch(self.split_draws(split, rows[first : first + batch_size]))

    def _batch(self, draws: Iterable[Tensor]) -> Batch:
        return self.assemble(*(to_device(draw, self.device) for draw in draws))


def require_positive(task: str, **sizes: int) -> None:
    """Raise ConfigError naming an option of `task` that is less than 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"option {name} of {task}: expected at least 1, found {size}")


def require_fewer(task: str, spec: TaskSpec) -> None:
    """Raise ConfigError if an example of `task` would have more than MAX_NUMBERS numbers."""
    tokens = spec.length * (spec.size if spec.kind == "continuous" else 1)
    numbers = max(tokens, spec.read_positions * spec.outputs, spec.size)
    if numbers > MAX_NUMBERS:
        raise ConfigError(
            f"{task}: an example would have {numbers:,} numbers, but at most {MAX_NUMBERS:,} are possible."
        )


def concatenate(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The random numbers of several examples or runs as one tuple of tensors."""
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
