"""What one pass through a body needs besides its inputs, as a value that is handed down.

The library's blocks call their modules with hidden states only, so the modules that icecore puts into a body (norms,
dropout, attention, ...) look the value up: it is bound to the current thread while the body runs, and never stored in
the body. So threads may share a body, and a pass leaves nothing behind.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from icecore.backbones.modules.dropout_draws import DropoutDraws


class NormParameters(NamedTuple):
    """Gains (R, D) and biases (R, D) or None of one norm, for the R programs of a pass."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class BodyPass:
    """The programs of a pass and how it is computed.

    norms       gains and biases of each norm module; a norm that is not listed uses the body's own
    run_of_row  (N,) int64 program of each row, or None if rows are run-major (N = R * B)
    dropout     the draws of every dropout in the body, or None for no dropout
    compiled    elementwise work runs as compiled kernels (`kernels.compiled`)
    record      is called with the attention weights (N, H, T, T) of each layer in turn, or None
    """

    norms: Mapping[nn.Module, NormParameters] = field(default_factory=dict)
    run_of_row: Tensor | None = None
    dropout: DropoutDraws | None = None
    compiled: bool = False
    record: Callable[[Tensor], object] | None = None


#: a pass with the body's own norms
PLAIN_PASS = BodyPass()


class RunningPass:
    """A pass while the body runs: the value, and what its modules must remember until the pass ends.

    positions     (N, n) positions that are read, or None for all of them
    residual      (N, T, D) input of the last block, which goes on at the read positions only
    dropout_uses  how often each dropout has drawn in this pass: a body may use one module in two places
    """

    def __init__(self, value: BodyPass, positions: Tensor | None = None) -> None:
        self.value = value
        self.positions = positions
        self.residual: Tensor | None = None
        self.dropout_uses: Counter[int] = Counter()


_RUNNING: ContextVar[RunningPass | None] = ContextVar("icecore_running_pass", default=None)


def running_pass() -> RunningPass:
    """The pass that runs in this thread, or a plain one outside of any body."""
    return _RUNNING.get() or RunningPass(PLAIN_PASS)


@contextmanager
def run_pass(value: BodyPass, positions: Tensor | None = None) -> Iterator[None]:
    """Bind a pass to this thread while its body runs."""
    before = _RUNNING.get()
    try:  # from here on, so that no interrupt can come between the two
        _RUNNING.set(RunningPass(value, positions))
        yield
    finally:
        _RUNNING.set(before)


def per_row(values: Tensor, rows: Tensor, run_of_row: Tensor | None) -> Tensor:
    """Per-run values (R, D), shaped so that they multiply rows (N, ..., D).

    run_of_row  the run of each row, or of each sequence if rows of one sequence after the other are a single axis
    """
    N, D = rows.shape[0], values.shape[-1]
    inner = [1] * (rows.dim() - 2)
    if run_of_row is not None:
        return values[run_of_row].repeat_interleave(N // len(run_of_row), 0).view(N, *inner, D)
    R = values.shape[0]
    if R == 1:
        return values.view(*[1] * (rows.dim() - 1), D)
    return values[:, None].expand(R, N // R, -1).reshape(N, *inner, D)
