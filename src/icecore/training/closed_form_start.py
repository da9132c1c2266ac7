"""The closed-form start of an output layer: ridge regression on the features of a program that is not trained yet.

Training goes on from there, so a run is never worse than the linear model on the features of its fresh body. The start
is a function of data, body and configuration only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icecore.backbones.backbone import Backbone
from icecore.core.device import to_device
from icecore.core.errors import ConfigError
from icecore.model.fpt import FPT
from icecore.tasks.task import Task, TaskSpec
from icecore.training.evaluation import examples_per_pass
from icecore.training.feature_cache import alone
from icecore.training.micro_batches import split_by_length
from icecore.training.ridge import solve_ridge

#: rows that a start is solved on, at most; more change little. Each position that is read of an example is a row
MAX_ROWS = 20_000
#: rows or columns of the eigendecomposition, at most; a solution with more columns is for this number of rows only
MAX_EIGENVALUES = 2048
#: factors from which the one with the lowest left-out loss is chosen: squared errors do not say how sure classes are
LOGIT_SCALES = torch.logspace(0, 2.5, 51, dtype=torch.float64)


@dataclass(frozen=True)
class ClosedFormStart:
    """An output layer: weight (F, C) and bias (C,).

    losses  (N,) loss of each row, predicted by the solution on all other rows; see `_left_out_losses`
    """

    weight: Tensor
    bias: Tensor
    losses: Tensor

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())


def max_examples(spec: TaskSpec, backbone: Backbone) -> int:
    """How many examples a start is solved on at most: as many as have `MAX_ROWS` rows, or `MAX_EIGENVALUES`."""
    columns, outputs = backbone.output_sizes(spec.length, spec.read_positions, spec.outputs, len(spec.read_outs))
    rows_per_example = spec.read_positions * spec.outputs // outputs  # without a body, one row has all answers
    rows = MAX_ROWS if columns <= MAX_EIGENVALUES else MAX_EIGENVALUES
    return max(1, rows // rows_per_example)


@torch.no_grad()
def solve_output_layer(
    model: FPT, task: Task, limit: int | None = None, splits: Sequence[str] = ("train",)
) -> ClosedFormStart:
    """The closed-form start of a model that holds one run, on at most `limit` examples of each of the splits.

    All splits together have no more than `max_examples`. Raises ConfigError if the output layer is not linear.
    """
    if model.settings.output_hidden:
        raise ConfigError("output_start ridge is for a linear output layer, but output_hidden makes it an MLP.")
    most = max(1, max_examples(model.spec, model.backbone) // len(splits))
    # on the CPU, because not every device has float64
    parts = [read_features_of(model, task, split, min(limit or most, most)) for split in splits]
    features, targets = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    N, n, F = features.shape
    values, weights = task.linear_targets(targets)
    values = values.reshape(N * n, -1)
    solution = solve_ridge(features.reshape(N * n, F).double(), values, weights.repeat_interleave(n))
    left_out = solution.left_out.view(N, model.spec.read_positions, -1)
    losses = torch.stack([_left_out_losses(task, scale * left_out, targets) for scale in LOGIT_SCALES])  # (L, N)
    best = int(losses.mean(1).argmin())
    scale = float(LOGIT_SCALES[best])
    return ClosedFormStart(solution.weight * scale, solution.bias * scale, losses[best])


def _left_out_losses(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss (N,) to expect of logits (N, n, C) if one row more than those left out were wrong, of N + 2.

    Where all rows are right, the loss alone would take ever larger logits for better ones (Platt 1999 smooths targets
    in the same way). A row is wrong if its logits have the other sign.
    """
    wrong = 1 / (len(logits) + 2)
    right, opposite = (task.loss((sign * logits).float(), targets).double() for sign in (1, -1))
    return (1 - wrong) * right + wrong * opposite


def read_features_of(model: FPT, task: Task, split: str, limit: int) -> tuple[Tensor, Tensor]:
    """Features (N, n, F) of a split's first rows, and their targets (N, ...), for a model that holds one run."""
    features, targets = [], []
    for batch in task.batches(split, examples_per_pass(model), limit):
        block = task.prepare_batch(batch)
        parts, order = [], []
        for part, places in split_by_length(block, runs=1):
            parts.append(model.features(part).float())
            order.append(torch.arange(len(block))[places])
        features.append(torch.cat(parts)[to_device(torch.cat(order).argsort(), block.tokens.device)])
        targets.append(batch.targets)
    return torch.cat(features), torch.cat(targets)


@torch.no_grad()
def start_output_layers(
    model: FPT, task: Task, seeds: Sequence[int], limit: int | None, splits: Sequence[str] = ("train",)
) -> int:
    """Give each run of `model` its closed-form start; runs of one seed have the same one.

    Returns the number of examples that a start was solved on.
    """
    programs = model.programs()
    solved: dict[int, ClosedFormStart] = {}
    (layer,) = model.output.weights()
    for run, seed in enumerate(seeds):
        if seed not in solved:
            with alone(model, programs[run]):
                solved[seed] = solve_output_layer(model, task, limit, splits)
        layer.weight[run].copy_(solved[seed].weight)
        if layer.bias is not None:
            layer.bias[run].copy_(solved[seed].bias)
    return len(solved[seeds[0]].losses)
