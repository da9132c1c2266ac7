"""The task of a user's own data: tokens, loss and metric come from its encoder."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import TaskDefaults
from icecore.user_data.data_encoder import DataEncoder


class UserTask(StoredTask):
    """Classification or regression of one or several targets, whose classes may be imbalanced.

    Targets are (N, 2, k) float32, see `TargetEncoder`. Without a test split, the validation split is reported.
    """

    name = "own"  # programs of version 0.1 have this name in their configuration
    defaults = TaskDefaults(steps=2000, batch_size=16, lr=1e-3, eval_every=100)

    def __init__(
        self, encoder: DataEncoder, splits: Mapping[str, Examples], data: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__({name: part for name, part in splits.items() if len(part)}, data)
        self.encoder, self.spec = encoder, encoder.spec
        self.metric_name = encoder.target.metric_name
        self.test_splits = ("test",) if "test" in self.splits else ("val",)
        self._to_tokens: Callable[[Tensor], Tensor] = encoder.inputs.tokenizer(self.device)

    def to(self, device: torch.device) -> "UserTask":
        super().to(device)
        self._to_tokens = self.encoder.inputs.tokenizer(device)
        return self

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """From encoded inputs (N, ...) to tokens (N, T, P) float or (N, T) int64."""
        return self._to_tokens(inputs)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss (N,) of logits (N, 1, C) and targets (N, 2, k), see `TargetEncoder.loss`."""
        return self.encoder.target.loss(logits, targets)

    def metric(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Metric (N,) of logits (N, 1, C) and targets (N, 2, k), see `TargetEncoder.metric`."""
        return self.encoder.target.metric(logits, targets)

    def linear_targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Values (N, 1, C) and weights (N,), see `TargetEncoder.linear_targets`."""
        return self.encoder.target.linear_targets(targets)
