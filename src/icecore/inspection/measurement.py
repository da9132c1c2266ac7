"""Measure a model: one or several passes over examples of its task, in which hooks see the hidden states of each layer.

All positions are computed. In training, the last block works on the positions that are read only.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icecore.backbones.backbone import Backbone, BackboneInfo
from icecore.backbones.modules.body_pass import NormParameters
from icecore.core.errors import ConfigError
from icecore.inference.attention_maps import WEIGHTS_PER_PASS
from icecore.inspection.findings import describe_findings
from icecore.inspection.layer_statistics import (
    FIRST_NORM,
    INPUT_STAGE,
    LAST_NORM,
    AttentionSums,
    HiddenSums,
    NormStatistics,
    Stage,
)
from icecore.model.fpt import FPT
from icecore.tasks.task import Task


@dataclass(frozen=True)
class Inspection:
    """What a body does with the tokens of a task.

    body      its name, sizes and weights
    start     what the trained tensors are, in words
    examples  number of examples
    stages    from the input to the last norm
    """

    body: BackboneInfo
    task: str
    start: str
    examples: int
    stages: Sequence[Stage]

    @property
    def length(self) -> int:
        """T, the length of the longest example."""
        return self.stages[0].length

    @property
    def findings(self) -> list[str]:
        """What stands out, one or several plain sentences each, and whether attention could not be looked at."""
        found = describe_findings(self.stages)
        if any(stage.attention for stage in self.stages):
            return found
        return [*found, f"icecore records no attention of {self.body.name}, so nothing is known of attention sinks."]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, with null where there was nothing to measure. Positions count from 0."""
        stages = [_stage_json(stage) for stage in self.stages]
        return _plain({**vars(self), "body": asdict(self.body), "stages": stages, "findings": self.findings})


def _stage_json(stage: Stage) -> dict[str, Any]:
    hidden = stage.hidden
    positions = {end: hidden.extreme_position(end == "max") for end in ("min", "max")}
    extremes = {f"rms_{end}": float(hidden.rms_by_position[position]) for end, position in positions.items()}
    places = {f"rms_{end}_position": position for end, position in positions.items()}
    return {
        "name": stage.name,
        **vars(hidden),
        **extremes,
        **places,
        "attention": None if stage.attention is None else vars(stage.attention),
        "norms": [vars(norm) for norm in stage.norms],
    }


def _plain(value: Any) -> Any:
    """`value` with tensors as lists, and None for numbers that are not finite."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@torch.inference_mode()
def measure_model(model: FPT, task: Task, split: str = "val", examples: int = 16, start: str = "") -> Inspection:
    """Measure a model with one run on the first `examples` of a split of its task, without their padding.

    start  what the trained tensors are, in words

    Takes memory for one layer's attention, as `attention_maps` does. Attention of a family with its own kernel is not
    measured, and weights that a sliding window hides count as visible in the largest possible entropy. Raises
    ConfigError if the model has several runs, `examples` is less than 1, or there is no body.
    """
    if model.runs != 1:
        raise ConfigError(f"An inspection is of one run, but this model has {model.runs}.")
    if examples < 1:
        raise ConfigError(f"examples is {examples}, but must be at least 1.")
    info = model.backbone.info
    if not model.backbone.residual_blocks():
        raise ConfigError(f"{info.name}: There are no layers to inspect. Name a body; `icecore backbones` lists them.")
    K = model.settings.prefix_length
    T = K + task.spec.length
    recorder, count = _Recorder(T, info.causal), 0
    with recorder.hooks(model.backbone):
        for batch in map(task.prepare_batch, task.batches(split, max(1, WEIGHTS_PER_PASS // T**2), examples)):
            recorder.begin([K + length for length in batch.row_lengths()])
            recorder.end(model.hidden_states(batch, recorder.add_attention))
            count += len(batch)
    return Inspection(
        info, task.name, start, count, recorder.stages(_norm_statistics(model, FIRST_NORM in recorder.hidden))
    )


class _Recorder:
    """The sums of every stage of a body.

    length  T, the longest sequence that may come
    causal  whether a query sees no later positions
    """

    def __init__(self, length: int, causal: bool) -> None:
        self.length, self.causal = length, causal
        self.hidden: dict[str, HiddenSums] = {}
        self.attention: dict[str, AttentionSums] = {}

    @contextmanager
    def hooks(self, backbone: Backbone) -> Iterator[None]:
        """Listen to the body's input and to its blocks."""
        blocks = backbone.residual_blocks()
        handles = [
            backbone.register_forward_pre_hook(self._see_input),
            blocks[0].register_forward_pre_hook(self._enter_first_block, with_kwargs=True),
            *(block.register_forward_hook(self._leave_block) for block in blocks),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, lengths: Sequence[int]) -> None:
        """Prepare for a pass over rows of these lengths."""
        self.lengths, self.blocks_left, self.layers_recorded = lengths, 0, 0

    def add_attention(self, weights: Tensor) -> None:
        """Add the weights (N, H, T, T) of the next layer."""
        self.layers_recorded += 1
        name = _layer_name(self.layers_recorded)
        self.attention.setdefault(name, AttentionSums(self.length, self.causal)).add(weights, self.lengths)

    def end(self, hidden: Tensor) -> None:
        """End a pass with the body's output (N, T, D)."""
        self._add_if_changed(LAST_NORM, hidden)

    def _see_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._add(INPUT_STAGE, inputs[0])

    def _enter_first_block(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._add_if_changed(FIRST_NORM, inputs[0] if inputs else named["hidden_states"])

    def _leave_block(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.blocks_left += 1
        self._add(_layer_name(self.blocks_left), output[0] if isinstance(output, tuple) else output)

    def _add_if_changed(self, name: str, hidden: Tensor) -> None:
        """Add a stage unless it passes on what the stage before it gave, as in bodies without this norm."""
        length = max(self.lengths)  # a body may pad its input
        if not torch.equal(hidden[:, :length], self.latest[:, :length]):
            self._add(name, hidden)

    def _add(self, name: str, hidden: Tensor) -> None:
        self.latest = hidden
        self.hidden.setdefault(name, HiddenSums(self.length)).add(hidden, self.lengths)

    def stages(self, norms: Mapping[str, Sequence[NormStatistics]]) -> list[Stage]:
        """The statistics of every stage, in order, with the `norms` of each."""
        attention = {name: sums.statistics() for name, sums in self.attention.items()}
        return [
            Stage(name, sums.statistics(), attention.get(name), norms.get(name, ()))
            for name, sums in self.hidden.items()
        ]


def _layer_name(number: int) -> str:
    return f"layer {number}"


def _norm_statistics(model: FPT, has_first: bool) -> dict[str, list[NormStatistics]]:
    """The norms of a model with one run, by the name of their stage.

    has_first  whether a norm comes before the blocks
    """
    blocks = model.backbone.residual_blocks()
    stage_of = {module: _layer_name(n) for n, block in enumerate(blocks, 1) for module in block.modules()}
    tensors = model.program()
    stages: dict[str, list[NormStatistics]] = {}
    for name, norm in model.backbone.norms().items():
        # norms outside of the blocks come before or after them, and are not always listed in that order
        outside = FIRST_NORM if has_first and _layer_name(1) not in stages else LAST_NORM
        stage = stage_of.get(norm, outside)
        parameters = NormParameters(tensors[f"body.{name}.weight"], tensors.get(f"body.{name}.bias"))
        stages.setdefault(stage, []).append(NormStatistics.of(name, parameters))
    return stages
