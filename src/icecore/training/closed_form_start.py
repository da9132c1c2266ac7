"""Output layers in closed form: ridge regression on the features of a program.

As the start of a run, it is solved before any training, so a run is never worse than the linear model on the features
of its fresh body. As a refit, it is solved for each state that is validated. Both are functions of data, body,
configuration and the program's other tensors only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icecore.backbones.backbone import Backbone
from icecore.core.config import OUTPUT
from icecore.core.device import to_device
from icecore.core.errors import ConfigError, DataError
from icecore.model.fpt import FPT
from icecore.tasks.task import Task, TaskSpec
from icecore.training.evaluation import examples_per_pass
from icecore.training.feature_cache import alone
from icecore.training.micro_batches import split_by_length
from icecore.training.ridge import solve_ridge

#: rows that an output layer is solved on, at most, to bound memory. Each position that is read of an example is a row
MAX_ROWS = 30_000
#: rows or columns of the eigendecomposition, at most (half a minute on two cores); a solution with more columns is for
#: this number of rows only
MAX_EIGENVALUES = 6144
#: the same where several solutions are needed: for refits, and to choose a start
MAX_EIGENVALUES_OF_MANY = 2048
#: factors, of which that with the lowest leave-one-out loss is chosen: squared errors do not say how sure classes are
LOGIT_SCALES = torch.logspace(0, 2.5, 51, dtype=torch.float64)


@dataclass(frozen=True)
class ClosedFormStart:
    """An output layer: weight (F, C) and bias (C,).

    losses  (N,) loss of each row, predicted by the solution on all other rows; see `_leave_one_out_losses`
    """

    weight: Tensor
    bias: Tensor
    losses: Tensor

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())


def max_examples(spec: TaskSpec, backbone: Backbone, eigenvalues: int) -> int:
    """How many examples an output layer is solved on at most: as many as have `MAX_ROWS` rows, or `eigenvalues`."""
    columns, outputs = backbone.output_sizes(spec.length, spec.read_positions, spec.outputs, spec.hidden_states)
    rows_per_example = spec.read_positions * spec.outputs // outputs  # without a body, one row has all answers
    rows = MAX_ROWS if columns <= eigenvalues else eigenvalues
    return max(1, rows // rows_per_example)


@torch.no_grad()
def solve_output_layer(
    model: FPT, task: Task, limit: int | None = None, splits: Sequence[str] = ("train",)
) -> ClosedFormStart:
    """The closed-form start of a model that holds one run, on at most `limit` examples of each of the splits.

    All splits together have no more than `max_examples`. Raises ConfigError if the output layer is not linear or not
    trained, and DataError if a feature is not a finite number.
    """
    _check_output_layer(model)
    most = max(1, max_examples(model.spec, model.backbone, MAX_EIGENVALUES) // len(splits))
    parts = [read_features_of(model, task, split, min(limit or most, most)) for split in splits]
    features, targets = (torch.cat(each) for each in zip(*parts, strict=True))
    if not features.isfinite().all():
        raise DataError(
            "The body gives numbers that are not finite for these examples, so an output layer in closed form cannot "
            "be found. Use --precision fp32, inputs of a smaller size (--input-scale), or another body."
        )
    return _solve(model, task, features, targets)


def _solve(model: FPT, task: Task, features: Tensor, targets: Tensor) -> ClosedFormStart:
    """The output layer for features (N, n, F) and targets (N, ...)."""
    features, targets = features.cpu(), targets.cpu()  # because not every device has float64
    N, n, F = features.shape
    values, weights = task.linear_targets(targets)
    values = values.reshape(N * n, -1)
    solution = solve_ridge(features.reshape(N * n, F).double(), values, weights.repeat_interleave(n))
    leave_one_out = solution.leave_one_out.view(N, model.spec.read_positions, -1)
    losses = torch.stack(
        [_leave_one_out_losses(task, scale * leave_one_out, targets) for scale in LOGIT_SCALES]
    )  # (L, N)
    best = int(losses.mean(1).argmin())
    scale = float(LOGIT_SCALES[best])
    return ClosedFormStart(solution.weight * scale, solution.bias * scale, losses[best])


def _check_output_layer(model: FPT) -> None:
    if model.settings.output_hidden:
        raise ConfigError("Only a linear output layer has a closed form, but output_hidden makes it an MLP.")
    if OUTPUT not in model.settings.train_roles:
        raise ConfigError("A closed form replaces the output layer, which is not trained. Add output to train_roles.")


def _leave_one_out_losses(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
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
    for run, seed in enumerate(seeds):
        if seed not in solved:
            with alone(model, programs[run]):
                solved[seed] = solve_output_layer(model, task, limit, splits)
        _set_output_layer(model, run, solved[seed])
    return len(solved[seeds[0]].losses)


@torch.no_grad()
def refit_output_layers(model: FPT, task: Task, limit: int) -> None:
    """Give each run of `model` the output layer in closed form for its program as it is now.

    A run that diverged, so that its features are not finite, keeps its output layer. Raises ConfigError if the output
    layer is not linear or not trained.
    """
    _check_output_layer(model)
    examples = min(limit, max_examples(model.spec, model.backbone, MAX_EIGENVALUES_OF_MANY))
    solved: list[ClosedFormStart | None] = []
    for program in model.programs():
        with alone(model, program):
            features, targets = read_features_of(model, task, "train", examples)
            solved.append(_solve(model, task, features, targets) if bool(features.isfinite().all()) else None)
    for run, solution in enumerate(solved):
        if solution is not None:
            _set_output_layer(model, run, solution)


def _set_output_layer(model: FPT, run: int, solution: ClosedFormStart) -> None:
    (layer,) = model.output.weights()
    layer.weight[run].copy_(solution.weight)
    if layer.bias is not None:
        layer.bias[run].copy_(solution.bias)
