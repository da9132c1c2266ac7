"""Task: what is read, what is predicted, and how it is scored. A task knows nothing of backbones.

Shapes use R runs, B examples of each run, N = R * B rows, T positions, P numbers of each token, n read-out positions,
C outputs at each of them.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core import read_outs
from icecore.core.device import to_device

TokenKind = Literal["continuous", "discrete"]
ReadOut = Literal["last", "first", "mean"]


@dataclass(frozen=True)
class TaskSpec:
    """The sizes of a task: everything that a model must know of it.

    kind            "continuous" tokens of P numbers, or "discrete" tokens of a vocabulary
    length          T, the longest sequence in tokens
    size            P for continuous tokens, the size of the vocabulary for discrete ones
    outputs         C, the number of outputs at a read-out position
    read_out        "last" reads the last `read_positions` real positions, "first" the first one, "mean" the average of
                    all real positions, "pool-N" the averages of N equal parts of them; several of them, joined with +,
                    are read side by side
    read_positions  n; 1 unless `read_out` is "last"
    """

    kind: TokenKind
    length: int
    size: int
    outputs: int
    read_out: str = "last"
    read_positions: int = 1

    @property
    def read_outs(self) -> tuple[str, ...]:
        """What is read side by side: "last", "first", "mean" or "pool-N", one or several of them."""
        return read_outs.kinds_of(self.read_out)

    @property
    def hidden_states(self) -> int:
        """How many hidden states are read side by side at a read-out position."""
        return read_outs.hidden_states_of(self.read_out)


@dataclass(frozen=True)
class TaskDefaults:
    """Training settings that give a sound result without tuning."""

    steps: int
    batch_size: int
    lr: float = 1e-3
    eval_every: int = 200


@dataclass(frozen=True)
class Batch:
    """N examples, with tokens and targets on one device.

    tokens   (N, T, P) float, or (N, T) int64 for discrete tokens; T is at most `spec.length`
    targets  (N,) int64 for one class of each example, (N, n) or (N, n, k) for several
    lengths  (N,) int64 numbers of real positions, with padding at the end; None if no row is padded. They are always
             on the CPU, where the passes through a body are planned.
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def row_lengths(self) -> list[int]:
        """The number of real positions of each row."""
        return [self.tokens.shape[1]] * len(self) if self.lengths is None else self.lengths.tolist()

    def rows(self, index: Tensor | slice) -> "Batch":
        """The rows that `index`, a slice or a tensor on the CPU, selects, in that order."""
        lengths = None if self.lengths is None else self.lengths[index]
        device_index = index if isinstance(index, slice) else to_device(index, self.tokens.device)
        return Batch(self.tokens[device_index], self.targets[device_index], lengths)

    def repeat(self, runs: int) -> "Batch":
        """The same rows once for each of `runs` runs, run-major: (R * N, ...)."""

        def tile(x: Tensor) -> Tensor:
            return x.repeat(runs, *[1] * (x.dim() - 1))

        return Batch(tile(self.tokens), tile(self.targets), None if self.lengths is None else tile(self.lengths))


class Task(ABC):
    """A supervised task over token sequences, with the splits "train", "val" and one or several test splits."""

    name: str
    spec: TaskSpec
    defaults: TaskDefaults
    metric_name: str = "accuracy"
    #: splits that are scored once at the end; the first one is reported as `test_metric`
    test_splits: tuple[str, ...] = ("test",)
    #: facts about the data, for the run's summary: file names, counts, checksums, remarks
    data: Mapping[str, Any]
    #: reproduce a fault of the published code: read short sequences without a mask, at a padding position
    unmasked: bool = False

    @abstractmethod
    def to(self, device: torch.device) -> "Task":
        """Move the stored data to `device`, in place, and return the task."""

    @abstractmethod
    def train_batch(self, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        """The training rows of one step for R runs, run-major: N = R * B rows.

        The rows of a run depend on its seed, the step and the batch size only.
        """

    def train_index(self, seeds: Sequence[int], step: int, batch_size: int) -> Tensor | None:
        """The index (N,) int64, on the CPU, of each row of `train_batch` within the split "train".

        None if training examples are generated or augmented, because then there are no stored rows to index.
        """
        return None

    @abstractmethod
    def split_size(self, split: str) -> int:
        """The number of examples of "train", "val" or a test split."""

    @abstractmethod
    def batches(self, split: str, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """The examples of a split in order, each one once and without augmentation; at most `limit` of them.

        The last batch may be smaller than `batch_size`.
        """

    @property
    def fingerprint(self) -> str:
        """sha256 over the counts and checksums in `data`: it differs if the data differ."""
        identity = {name: value for name, value in self.data.items() if name == "counts" or name.endswith("sha256")}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def prepare_batch(self, batch: Batch) -> Batch:
        """The batch as a model reads it: unchanged, or padded to `spec.length` without lengths if `unmasked`."""
        if not self.unmasked or batch.lengths is None:
            return batch
        padding = self.spec.length - batch.tokens.shape[1]
        widths = (0, padding) if batch.tokens.dim() == 2 else (0, 0, 0, padding)
        return Batch(F.pad(batch.tokens, widths), batch.targets)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each example (N,), averaged over its targets. logits (N, n, C)."""
        N = logits.shape[0]
        losses = F.cross_entropy(self._class_logits(logits, targets), targets.reshape(-1), reduction="none")
        return losses.view(N, -1).mean(1)

    def metric(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The share of right predictions of each example (N,). logits (N, n, C)."""
        N = logits.shape[0]
        right = self._class_logits(logits, targets).argmax(-1) == targets.reshape(-1)
        return right.view(N, -1).float().mean(1)

    def linear_targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What a linear output layer is solved for: values (N, n, C) in float64, and the weight (N,) of each row.

        For classes, 1 for the right one and 0 for the others: the centred solution's largest output is its choice.
        """
        N, n, C = len(targets), self.spec.read_positions, self.spec.outputs
        classes = N * n * C // targets.numel()
        values = F.one_hot(targets.reshape(-1).long(), classes).double().view(N, n, C)
        return values, torch.ones(N, dtype=torch.float64, device=targets.device)

    @staticmethod
    def _class_logits(logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (N, n, C) with one row of classes for each target: (targets.numel(), classes)."""
        return logits.reshape(targets.numel(), -1).float()
