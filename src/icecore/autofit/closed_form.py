"""The start of a fit: an output layer in closed form, on the input scale at which it predicts best.

With a small input layer the body is nearly linear in its inputs, so the start contains the linear model of the data;
with a larger one it is a smooth function of them. Left-out losses on training rows choose. A training is kept only if
it is clearly better than its start on the validation rows: a few of them cannot tell small differences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from icecore.backbones.backbone import SHARED_ROLES
from icecore.core.config import INPUT, OUTPUT, RIDGE, RunConfig
from icecore.core.device import package_versions
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs, start_from_program
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.training.closed_form_start import (
    MAX_EIGENVALUES_OF_MANY,
    ClosedFormStart,
    max_examples,
    read_features_of,
    solve_output_layer,
    start_output_layers,
)
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import predict
from icecore.user_data import UserTask

#: factors on the input layer's weights to choose from
INPUT_SCALES = (0.05, 0.2, 1.0)
#: norm of an output's weights at a random start: of D numbers that are uniform within 1 / sqrt(D)
USUAL_OUTPUT_NORM = 3**-0.5
#: learning rate of an output layer that is solved already, relative to that of a random one
SOLVED_OUTPUT_SHARE = 0.1
#: rows whose features are timed: first two, and then 32 if the two took less than a second
TIMED_ROWS, ENOUGH_SECONDS = (2, 32), 1.0
#: factor on the time of a start without a choice: the few steps that this time would give are worth less
LONE_START_FACTOR = 2.0
#: with fewer rows, a difference must be two standard errors instead of one
MANY_ROWS = 50
#: the fewest rows on which a start is chosen among several scales, and on which it is solved
MIN_ROWS_TO_CHOOSE, MIN_START_ROWS = 100, 50


def choose_start(config: RunConfig, task: UserTask, context: ExecutionContext, seconds: float | None) -> dict[str, Any]:
    """The settings of `RunConfig` for a closed-form start that takes about `seconds` in all; None: however long.

    If the time is short, the most linear start is taken without a choice, and may take `LONE_START_FACTOR` times as
    long. There are no settings, and so no such start, if that is too short even for the features of a few rows.
    """
    scales: tuple[float | None, ...] = INPUT_SCALES if config.start is None else (None,)
    most = max_examples(task.spec, context.backbone(config), MAX_EIGENVALUES_OF_MANY)
    rows = min(most, task.split_size("train"))
    if seconds is not None:
        passes = seconds / _seconds_per_row(config, task, context)  # each scale, and the training's own start
        if passes / (len(scales) + 1) < min(rows, MIN_ROWS_TO_CHOOSE):
            scales, passes = scales[:1], LONE_START_FACTOR * passes
        rows = min(rows, int(passes / (len(scales) + 1)))
        if rows < min(MIN_START_ROWS, task.split_size("train")):
            return {}
    starts: dict[float | None, ClosedFormStart] = {}
    for scale in scales:
        trial = replace(config, input_scale=scale)
        starts[scale] = solve_output_layer(_fresh_model(trial, task, context), task, rows)
    best = _choose_scale(starts)
    return {
        "output_start": RIDGE,
        "input_scale": best,
        "start_examples": rows,
        "lr_factors": _gentle_factors(config.lr_factors, starts[best]),
    }


def _choose_scale(starts: Mapping[float | None, ClosedFormStart]) -> float | None:
    """The smallest scale whose start is not clearly worse than the best one.

    That is by less than a standard error of the differences between rows (Breiman et al. 1984): with few rows,
    leave-one-out losses are noisy, and the more linear start is the safer one.
    """
    lowest = min(starts.values(), key=lambda start: start.loss)
    return next(scale for scale, start in starts.items() if not _is_clear(start.losses - lowest.losses))


def _gentle_factors(factors: Mapping[str, float], start: ClosedFormStart) -> dict[str, float]:
    """Learning rates of roles, lower before an output layer with large weights.

    Such a layer tells rows apart by small differences of their features, which steps of the usual size would destroy.
    With these factors, a step changes the logits about as much as if the output layer were the usual random one. The
    layer itself is at its best for these features, so it moves slowly too.
    """
    norm = float(start.weight.square().sum(0).mean().sqrt())
    share = min(1.0, USUAL_OUTPUT_NORM / max(norm, 1e-12))
    gentle = {role: factors.get(role, 1.0) * share for role in (INPUT, *SHARED_ROLES)}
    return {**factors, **gentle, OUTPUT: factors.get(OUTPUT, 1.0) * SOLVED_OUTPUT_SHARE}


def _seconds_per_row(config: RunConfig, task: UserTask, context: ExecutionContext) -> float:
    """The time that the features of a training row take."""
    model = _fresh_model(config, task, context)
    read_features_of(model, task, "train", 1)  # the first pass is slower than the others
    seconds, rows = 0.0, 0
    for count in TIMED_ROWS:
        begun = context.clock()
        rows = len(read_features_of(model, task, "train", count)[0])
        seconds = context.clock() - begun
        if seconds > ENOUGH_SECONDS:
            break
    return max(1e-9, seconds / rows)


def _fresh_model(config: RunConfig, task: UserTask, context: ExecutionContext) -> FPT:
    """A model of one run at its start, but for its output layer."""
    runtime = context.runtime(config)
    model = FPT(task.spec, context.backbone(config), [config.seed], model_settings(config), runtime.precision)
    if config.start is not None:
        start_from_program(model, Program.load(config.start), config)
    return model.to(runtime.device)


def start_program(
    config: RunConfig, task: UserTask, context: ExecutionContext, splits: Sequence[str] = ("train",)
) -> Program:
    """The program with which the run of a configuration begins, or the same solved on more rows."""
    model = _fresh_model(config, task, context)
    start_output_layers(model, task, [config.seed], config.start_examples, splits)
    tensors = {name: tensor.cpu() for name, tensor in model.programs()[0].items()}
    extra = {"data": dict(task.data), "metric_name": task.metric_name}
    return Program(config, task.spec, model.body_fingerprint, tensors, {}, package_versions(), extra)


@dataclass(frozen=True)
class Gain:
    """What training gained over its start on the validation rows.

    is_clear      the gain is more than its standard error: that of the metric, or that of the loss at no worse a metric
    start_metric  validation metric of the start
    """

    is_clear: bool
    start_metric: float

    @classmethod
    def over_start(cls, trained: Program, start: Program, task: UserTask, context: ExecutionContext) -> "Gain":
        """Score both programs on the validation rows."""
        after, before = (_scores(program, task, context) for program in (trained, start))
        metric, loss = (after[name] - before[name] for name in ("metric", "loss"))
        is_clear = _is_clear(metric) or (float(metric.mean()) >= 0 and _is_clear(-loss))
        return cls(is_clear, float(before["metric"].mean()))


def _is_clear(gains: Tensor) -> bool:
    """Whether the mean of gains (N,) is above zero by more than its standard error, or by two for few rows."""
    N = len(gains)
    errors = 1.0 if N >= MANY_ROWS else 2.0
    return N > 1 and float(gains.mean()) > errors * float(gains.std()) / N**0.5


def _scores(program: Program, task: UserTask, context: ExecutionContext) -> Mapping[str, Tensor]:
    """Metric (N,) and loss (N,) of a program for each validation row."""
    runtime = context.runtime(program.config)
    model = load_programs([program], context.backbone(program.config), runtime.precision).to(runtime.device)
    logits, targets = predict(model, task, "val")
    with torch.inference_mode():
        scores = {"metric": task.metric(logits[0], targets), "loss": task.loss(logits[0], targets)}
    return {name: values.double() for name, values in scores.items()}
