"""The one forward pass, of training and of serving: tokens -> input layer -> positions -> body -> read-out -> logits.

Rows whose programs have equal shapes form a segment. Training is one segment of run-major rows; a serving pass has as
many segments as shapes of programs, and goes through the body once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.backbones.backbone import Backbone, ReadOut
from icecore.backbones.modules.body_pass import BodyPass
from icecore.model.layers import LayerWeights, run_layers
from icecore.tasks.task import TaskSpec

#: added to the mean square of a token before it is normalised, so that an empty one neither explodes nor gets gradients
#: that do; the input layer gives others 0.01 and more
NORM_EPS = 1e-3


@dataclass(frozen=True)
class ProgramStack:
    """R programs of equal shape: their own layers and positions, which all lead with R. Norms come with the pass.

    positions  (R, K + T, D), or None for bodies without learned positions
    prefix     (R, K, D) vectors before the first token, or None
    input_rms  root mean square that every token has after the input layer; None leaves it as it is
    """

    spec: TaskSpec
    input_layers: Sequence[LayerWeights]
    output_layers: Sequence[LayerWeights]
    positions: Tensor | None
    prefix: Tensor | None = None
    input_rms: float | None = None

    @property
    def prefix_length(self) -> int:
        """K, the number of vectors before the first token."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    def embed(self, tokens: Tensor, run_of_row: Tensor | None) -> Tensor:
        """Body inputs (N, K + T, D) from tokens (N, T, P) or (N, T): the prefix and the input layer's output, plus
        positions.
        """
        x = run_layers(tokens, self.input_layers, run_of_row)
        if self.input_rms is not None:
            x = self.input_rms * F.rms_norm(x, x.shape[-1:], eps=NORM_EPS)
        if self.prefix is not None:
            x = torch.cat([_rows_of(self.prefix, len(x), run_of_row), x], 1)
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
    """What the output layers read, for each segment: (N, n, k D) of k hidden states, (N, 1, T D) without a body.

    lengths    (N,) real tokens of all rows, on the body's device; None if all rows are full
    body_pass  the programs of all rows, and how the pass is computed
    dtype      of the body's inputs
    """
    sizes = [len(segment.tokens) for segment in segments]
    prefixes = [segment.programs.prefix_length for segment in segments]
    T = max(K + segment.tokens.shape[1] for K, segment in zip(prefixes, segments, strict=True))
    if len(segments) == 1:
        x = segments[0].programs.embed(segments[0].tokens, segments[0].run_of_row).to(dtype)
    else:
        device = segments[0].tokens.device
        x = torch.zeros(sum(sizes), T, backbone.info.width, device=device, dtype=dtype)
        for segment, rows in zip(segments, x.split(sizes), strict=True):
            inputs = segment.programs.embed(segment.tokens, segment.run_of_row)
            rows[:, : inputs.shape[1]] = inputs
    if any(prefixes):
        lengths = _lengths_with_prefix(segments, lengths, x.device)
    mask = None if lengths is None else torch.arange(T, device=x.device) < lengths[:, None]
    read_outs, first = [], 0
    for segment, size in zip(segments, sizes, strict=True):
        spec = segment.programs.spec
        rows, K = slice(first, first + size), segment.programs.prefix_length
        read_outs.append(ReadOut(rows, spec.read_outs, spec.read_positions, spec.length, K))
        first += size
    return backbone.read_out(x, mask, lengths, read_outs, body_pass)


def _rows_of(stack: Tensor, rows: int, run_of_row: Tensor | None) -> Tensor:
    """What belongs to each of N rows: (R, ...) -> (N, ...). Rows are run-major unless `run_of_row` (N,) is given."""
    return stack.repeat_interleave(rows // len(stack), 0) if run_of_row is None else stack[run_of_row]


def _lengths_with_prefix(segments: Sequence[Segment], lengths: Tensor | None, device: torch.device) -> Tensor | None:
    """Real positions (N,) of all rows with their prefixes; None if all rows are full then."""
    if lengths is None and len(segments) == 1:
        return None
    rows = torch.tensor([len(each.tokens) for each in segments], device=device)
    prefixes = torch.tensor([each.programs.prefix_length for each in segments], device=device)
    tokens = segments[0].tokens.shape[1] if lengths is None else lengths  # full rows all have the length of the pass
    return tokens + prefixes.repeat_interleave(rows)


def without_prefix(record: Callable[[Tensor], object], prefix: int) -> Callable[[Tensor], object]:
    """`record` for attention weights (N, H, K + T, K + T), of which it gets those among the T tokens."""
    return lambda weights: record(weights[..., prefix:, prefix:])
