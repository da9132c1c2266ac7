"""Task: what is read, what is predicted, how it is scored. A task knows nothing of backbones.

Shapes use R runs, B examples a run, N = R * B rows, T positions, P numbers a token, n read-out
positions, C outputs a position. Every draw is a pure function of (seed, step): resuming needs no
random state, and a run sees the same examples alone or packed with others.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core.device import to_device
from icecore.core.errors import ConfigError, unknown_name

TokenKind = Literal["continuous", "discrete"]
ReadOut = Literal["last", "mean"]


@dataclass(frozen=True)
class TaskSpec:
    """Everything a model must know of a task.

    `size` is P (numbers a token) for continuous tokens and the vocabulary size for discrete ones.
    `read_out` "last" reads the last `read_positions` real positions, "mean" their average over the
    real positions (then `read_positions` is 1).
    """

    kind: TokenKind
    length: int
    size: int
    outputs: int
    read_out: ReadOut = "last"
    read_positions: int = 1


@dataclass(frozen=True)
class TaskDefaults:
    """Training settings under the fair protocol that need no tuning to give a sound result."""

    steps: int
    batch_size: int
    lr: float = 1e-3
    eval_every: int = 200


@dataclass(frozen=True)
class Batch:
    """N examples, tokens and targets on one device.

    tokens   (N, T, P) float, or (N, T) int64 for discrete tokens; T is at most `spec.length`
    targets  (N,) int64 for one class an example, (N, n) or (N, n, k) for several
    lengths  (N,) int64 real positions a row (padding is at the end), or None: all rows are full; always on
             the CPU, where the passes through a body are planned
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def rows(self, index: Tensor | slice) -> "Batch":
        """The rows that `index`, on the CPU, selects, in that order."""
        lengths = None if self.lengths is None else self.lengths[index]
        there = index if isinstance(index, slice) else to_device(index, self.tokens.device)
        return Batch(self.tokens[there], self.targets[there], lengths)

    def repeat(self, runs: int) -> "Batch":
        """The same rows once for each of `runs` runs: (R * N, ...), run-major."""

        def tile(x: Tensor) -> Tensor:
            return x.repeat(runs, *[1] * (x.dim() - 1))

        return Batch(tile(self.tokens), tile(self.targets), None if self.lengths is None else tile(self.lengths))


@dataclass(frozen=True)
class Examples:
    """One split of stored data, as whole tensors on the training device (uint8 where that is the source).

    inputs (N, ...), targets (N, ...), lengths (N,) on the CPU, or None.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        counts = [len(part) for part in (self.inputs, self.targets, self.lengths) if part is not None]
        if len(set(counts)) > 1:
            raise ValueError(f"inputs, targets and lengths must agree in number, found {counts}")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "Examples":
        """The same split on `device`."""
        return Examples(self.inputs.to(device), self.targets.to(device), self.lengths)


def random_stream(*key: int) -> torch.Generator:
    """A CPU generator that is a pure function of the integers `key` (say run seed, purpose, step)."""
    state = 0x9E3779B97F4A7C15
    for part in key:
        # splitmix64: neighbouring seeds and steps must not give related draws
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)


# Purposes of random streams; the first integer after the run's seed in `stream`.
ORDER, AUGMENT, EXAMPLES, SPLIT, INIT, DROPOUT = range(6)


@lru_cache(maxsize=256)
def _epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=random_stream(seed, ORDER, epoch))


def training_order(size: int, seed: int, step: int, batch_size: int) -> Tensor:
    """Indices (B,) of the examples of step `step`: endless epochs without replacement, no state."""
    first = step * batch_size
    parts: list[Tensor] = []
    while batch_size > 0:
        epoch, offset = divmod(first, size)
        part = _epoch_order(size, seed, epoch)[offset : offset + batch_size]
        parts.append(part)
        first += len(part)
        batch_size -= len(part)
    return torch.cat(parts)


def split_held_out(size: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Seeded split of `range(size)` into (kept, held out) sorted indices; `share` of them is held out."""
    order = torch.randperm(size, generator=random_stream(seed, SPLIT))
    count = max(1, round(size * share))
    return order[count:].sort().values, order[:count].sort().values


class Task(ABC):
    """A supervised task over token sequences with splits train, val, test (and perhaps further tests)."""

    name: str
    spec: TaskSpec
    defaults: TaskDefaults
    metric_name: str = "accuracy"
    #: splits that are scored once at the end; the first is the one reported as `test_metric`
    test_splits: tuple[str, ...] = ("test",)
    #: what the numbers were made from, for the summary (file names, counts, checksums, remarks)
    data: Mapping[str, Any]
    #: keep the published code's fault of reading short sequences without a mask, at a padding position
    unmasked: bool = False

    @abstractmethod
    def to(self, device: torch.device) -> "Task":
        """Move the stored data to `device` (in place) and return the task."""

    @abstractmethod
    def train_batch(self, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        """The training rows of one step for R runs, run-major: N = R * B rows.

        A pure function of (seed, step, batch_size) for each run.
        """

    def train_index(self, seeds: Sequence[int], step: int, batch_size: int) -> Tensor | None:
        """Places (N,) int64, on the CPU, of the rows of `train_batch` in the split "train".

        None where training examples are generated or augmented, and so are no stored ones.
        """
        return None

    @abstractmethod
    def split_size(self, split: str) -> int:
        """Number of examples of "train", "val" or a test split."""

    @abstractmethod
    def batches(self, split: str, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """The split in order, each example once, without augmentation; at most `limit` examples.

        The last batch may be smaller. "train" yields training examples without augmentation.
        """

    @property
    def fingerprint(self) -> str:
        """sha256 over the sizes and checksums in `data`: other data have another."""
        held = {name: value for name, value in self.data.items() if name == "counts" or name.endswith("sha256")}
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

    def prepare_batch(self, batch: Batch) -> Batch:
        """A batch of this task as a model gets it: as it is, or where `unmasked` padded, its lengths forgotten."""
        if not self.unmasked or batch.lengths is None:
            return batch
        pad = self.spec.length - batch.tokens.shape[1]
        widths = (0, pad) if batch.tokens.dim() == 2 else (0, 0, 0, pad)
        return Batch(F.pad(batch.tokens, widths), batch.targets)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each example (N,), averaged over its targets. logits (N, n, C)."""
        N = logits.shape[0]
        flat = F.cross_entropy(self._grouped(logits, targets), targets.reshape(-1), reduction="none")
        return flat.view(N, -1).mean(1)

    def metric(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Share of correct predictions of each example (N,). logits (N, n, C)."""
        N = logits.shape[0]
        hit = self._grouped(logits, targets).argmax(-1) == targets.reshape(-1)
        return hit.view(N, -1).float().mean(1)

    @staticmethod
    def _grouped(logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (N, n, C) as one row of classes for each target: (targets.numel(), classes)."""
        return logits.reshape(targets.numel(), -1).float()


class StoredTask(Task):
    """A task whose examples are held as tensors. Subclasses turn raw inputs into tokens, vectorised."""

    def __init__(self, splits: Mapping[str, Examples], data: Mapping[str, Any] | None = None) -> None:
        self.splits = dict(splits)
        self.data = dict(data or {})
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> "StoredTask":
        self.splits = {name: part.to(device) for name, part in self.splits.items()}
        self.device = device
        return self

    def split_size(self, split: str) -> int:
        return len(self.splits[split])

    @abstractmethod
    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Raw inputs (N, ...) to tokens: (N, T, P) float or (N, T) int64, T = `spec.length` or the longest row."""

    def augment(self, inputs: Tensor, draws: Tensor) -> Tensor:
        """Training-time change of raw inputs (N, ...), steered by uniform numbers `draws` (N, augment_draws)."""
        return inputs

    #: uniform numbers an example's augmentation needs; 0 means no augmentation
    augment_draws: int = 0

    def train_index(self, seeds: Sequence[int], step: int, batch_size: int) -> Tensor | None:
        return None if self.augment_draws else self._drawn(seeds, step, batch_size)

    def train_batch(self, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        draws = None
        if self.augment_draws:
            shape = (batch_size, self.augment_draws)
            draws = torch.cat([torch.rand(shape, generator=random_stream(seed, AUGMENT, step)) for seed in seeds])
            draws = to_device(draws, self.device)
        return self._collate(self.splits["train"], self._drawn(seeds, step, batch_size), draws)

    def batches(self, split: str, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        part = self.splits[split]
        size = len(part) if limit is None else min(limit, len(part))
        for first in range(0, size, batch_size):
            yield self._collate(part, slice(first, min(first + batch_size, size)), None)

    def _drawn(self, seeds: Sequence[int], step: int, batch_size: int) -> Tensor:
        """Places (N,) in "train" of the examples of one step."""
        size = len(self.splits["train"])
        return torch.cat([training_order(size, seed, step, batch_size) for seed in seeds])

    def _collate(self, part: Examples, index: Tensor | slice, draws: Tensor | None) -> Batch:
        there = index if isinstance(index, slice) else to_device(index, self.device)
        inputs = part.inputs[there]
        lengths = None if part.lengths is None else part.lengths[index]
        if lengths is not None:
            # no work on positions that no row of the batch uses
            inputs = inputs[:, : int(lengths.max())]
        if draws is not None:
            inputs = self.augment(inputs, draws)
        return Batch(self.tokens(inputs, lengths), part.targets[there], lengths)


@dataclass(frozen=True)
class TaskRequest:
    """What a builder gets: options from the configuration, where data may lie, and named faults to keep.

    `faults` holds names of the published code's faults that the paper protocol reproduces
    (see docs/method.md); the fair protocol passes none.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    faults: frozenset[str] = frozenset()


def read_options(request: TaskRequest, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The request's options over their defaults, each as the type of its default. Raises ConfigError."""
    values = dict(defaults)
    for key, given in request.options.items():
        if key not in defaults:
            raise (
                unknown_name(f"option of {name}", key, defaults)
                if defaults
                else ConfigError(f"{name} has no options, found {key!r}")
            )
        kind = type(defaults[key])
        try:
            if kind is bool and isinstance(given, str):
                values[key] = {"true": True, "false": False}[given.lower()]
            else:
                values[key] = kind(given)
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"option {key} of {name}: expected {kind.__name__}, found {given!r}") from None
    return values


@dataclass(frozen=True)
class TaskEntry:
    """A row of the table of tasks: how to build it and what to say of it without building it.

    `options` maps each option the builder understands to its default; `shape` is T x P in words;
    `defaults` and `paper` are training settings under the fair and the paper protocol.
    """

    build: Callable[[TaskRequest], Task]
    summary: str
    shape: str
    defaults: TaskDefaults
    paper: TaskDefaults
    options: Mapping[str, Any] = field(default_factory=dict)
