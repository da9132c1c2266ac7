"""The one forward pass, of training and of serving: tokens -> input layer -> positions -> body -> read-out -> logits.

Rows whose programs have equal shapes form a segment. Training is one segment of run-major rows; a serving pass has as
many segments as shapes of programs, and goes through the body once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icecore.backbones.backbone import Backbone, ReadOut
from icecore.backbones.modules.body_pass import BodyPass
from icecore.model.layers import LayerWeights, run_layers
from icecore.tasks.task import TaskSpec


@dataclass(frozen=True)
class ProgramStack:
    """R programs of equal shape: their own layers and positions, which all lead with R. Norms come with the pass.

    positions  (R, T, D), or None for bodies without learned positions
    """

    spec: TaskSpec
    input_layers: Sequence[LayerWeights]
    output_layers: Sequence[LayerWeights]
    positions: Tensor | None

    def embed(self, tokens: Tensor, run_of_row: Tensor | None) -> Tensor:
        """Body inputs (N, T, D) from tokens (N, T, P) or (N, T): the input layer's output plus positions."""
        x = run_layers(tokens, self.input_layers, run_of_row)
        if self.positions is None:
            return x
        N, T, D = x.shape
        R = self.positions.shape[0]
        positions = self.positions[:, :T]
        if run_of_row is not None:
            return x + positions[run_of_row]
        return (x.view(R, N // R, T, D) + positions[:, None]).view(N, T, D)

    def logits(self, features: Tensor, run_of_row: Tensor | None) -> Tensor:
        """Logits (N, n, C) in fp32 from features of any dtype, as `read_features` returns them."""
        logits = run_layers(features.float(), self.output_layers, run_of_row)
        return logits.view(len(features), self.spec.read_positions, self.spec.outputs)


@dataclass(frozen=True)
class Segment:
    """Neighbouring rows of a pass whose programs have one shape.

    tokens      (N, T, P) or (N, T) of the segment's rows; T may be less than that of the whole pass
    run_of_row  (N,) program of each row in the stack, or None if rows are run-major
    """

    programs: ProgramStack
    tokens: Tensor
    run_of_row: Tensor | None = None


def read_features(
    backbone: Backbone, segments: Sequence[Segment], lengths: Tensor | None, body_pass: BodyPass, dtype: torch.dtype
) -> list[Tensor]:
    """What the output layers read, for each segment: (N, n, D), (N, 1, D) for the mean, (N, 1, T D) without a body.

    lengths    (N,) real positions of all rows, on the body's device; None if all rows are full
    body_pass  the programs of all rows, and how the pass is computed
    dtype      of the body's inputs
    """
    sizes = [len(segment.tokens) for segment in segments]
    T = max(segment.tokens.shape[1] for segment in segments)
    if len(segments) == 1:
        x = segments[0].programs.embed(segments[0].tokens, segments[0].run_of_row).to(dtype)
    else:
        device = segments[0].tokens.device
        x = torch.zeros(sum(sizes), T, backbone.info.width, device=device, dtype=dtype)
        for segment, rows in zip(segments, x.split(sizes), strict=True):
            inputs = segment.programs.embed(segment.tokens, segment.run_of_row)
            rows[:, : inputs.shape[1]] = inputs
    mask = None if lengths is None else torch.arange(T, device=x.device) < lengths[:, None]
    read_outs, first = [], 0
    for segment, size in zip(segments, sizes, strict=True):
        spec = segment.programs.spec
        read_outs.append(ReadOut(slice(first, first + size), spec.read_out, spec.read_positions, spec.length))
        first += size
    return backbone.read_out(x, mask, lengths, read_outs, body_pass)
