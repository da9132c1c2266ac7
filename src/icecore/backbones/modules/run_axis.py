"""The pieces icecore puts into a body: run-axis norm, activation, dropout that is a pure function.

The run axis: rows are run-major, N = R * B, so per-run gains (R, D) meet rows viewed as (R, B, ...).
Serving mixes programs freely instead: `RunAxis.run_of_row` names the program of each row.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.modules import kernels

NormKind = Literal["layer", "rms"]
# Side of the grid on which attention scores are counted: longer rows would repeat draws.
GRID = 4096
# More than a body has dropouts: the second use of one module is a place of its own.
_PLACES = 8191


@dataclass
class RunAxis:
    """How the rows of the pass under way map to runs. One object is shared by all pieces of a body.

    run_of_row  (N,) int64 when rows are mixed freely, None when they are run-major (N = R * B)
    dropout     rate of every dropout in the body while training
    row_keys    (N,) int64 keys of the dropout draws, None outside training
    record      attention maps are appended here, (N, H, T, T) a layer, when it is a list
    compiled    elementwise work runs as compiled kernels (`kernels.compiled`)
    """

    run_of_row: Tensor | None = None
    dropout: float = 0.0
    row_keys: Tensor | None = None
    record: list[Tensor] | None = None
    compiled: bool = False
    _counters: dict[int, tuple[tuple[int, ...], Tensor]] = field(default_factory=dict, repr=False)
    _uses: Counter[int] = field(default_factory=Counter, repr=False)

    def begin(self, run_of_row: Tensor | None, row_keys: Tensor | None) -> None:
        """A pass of the body over rows of these programs follows."""
        self.run_of_row, self.row_keys = run_of_row, row_keys
        self._uses.clear()

    def use(self, salt: int) -> int:
        """How often in this pass the dropout `salt` has been asked before: a body may have one module in two places."""
        self._uses[salt] += 1
        return self._uses[salt] - 1

    def counters(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """`element_counters`, of which few are kept: batches differ in T, and scores take 4 H T**2 bytes.

        Rows (T, D) are cut from the longest so far of their width; of scores (H, T, T) the last shape is kept.
        """
        kind = shape[-1] if len(shape) == 2 else 0
        kept, counters = self._counters.get(kind, ((), None))
        whole = kept == shape or (kind > 0 and bool(kept) and kept[0] >= shape[0])
        if counters is None or counters.device != device or not whole:
            counters = element_counters(shape, device)
            self._counters[kind] = shape, counters
        return counters[: math.prod(shape)]

    def spread(self, values: Tensor, rows: Tensor) -> Tensor:
        """Per-run values (R, D) shaped to multiply rows (N, ..., D): a view of (N, 1, ..., D) or R-grouped."""
        inner = [1] * (rows.dim() - 2)
        if self.run_of_row is not None:
            return values[self.run_of_row].view(rows.shape[0], *inner, values.shape[-1])
        R = values.shape[0]
        if R == 1:
            return values.view(*[1] * (rows.dim() - 1), values.shape[-1])
        B = rows.shape[0] // R
        return values[:, None].expand(R, B, -1).reshape(rows.shape[0], *inner, values.shape[-1])


class RunNorm(nn.Module):
    """Layer norm or RMS norm with gains (R, D) and biases (R, D), computed in fp32.

    Parameters:
        kind: "layer" (Ba et al. 2016) or "rms" (Zhang and Sennrich 2019)
        weight: (D,) gains to start from; becomes (1, D)
        bias: (D,) or None
        axis: the body's shared run axis
    """

    def __init__(self, kind: NormKind, weight: Tensor, bias: Tensor | None, eps: float, axis: RunAxis) -> None:
        super().__init__()
        self.kind: NormKind = kind
        self.eps = eps
        self.axis = axis
        self.weight = nn.Parameter(weight.detach().float().clone()[None])
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone()[None])

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ..., D) -> (N, ..., D) in x's dtype."""
        if self.axis.run_of_row is not None:
            return self._mixed(x)
        R, D = self.weight.shape
        grouped = x.reshape(R, -1, D)
        layer, on_cpu = self.kind == "layer", x.device.type == "cpu"
        bias = None if self.bias is None else self.bias[0]
        if R == 1 and layer and (on_cpu or x.dtype == torch.float32):
            # torch's own pass is the fastest there is for one run; on CPU it mixes bf16 with fp32 gains
            out = F.layer_norm(grouped, (D,), self.weight[0], bias, self.eps)
        elif R == 1 and not layer and bias is None and x.dtype == torch.float32 and not self.axis.compiled:
            out = F.rms_norm(grouped, (D,), self.weight[0], self.eps)
        elif layer and on_cpu and not self.axis.compiled:
            out = _LoopedNorm.apply(grouped, self.weight, self.bias, self.eps)
        else:
            out = _KernelNorm.apply(grouped, self.weight, self.bias, self.eps, layer, self.axis.compiled)
        assert isinstance(out, Tensor)
        return out.view(x.shape)

    def _mixed(self, x: Tensor) -> Tensor:
        """Rows of any program in any order: gains are gathered, one set a row."""
        normalise = F.layer_norm if self.kind == "layer" else F.rms_norm
        unit = normalise(x.float(), (x.shape[-1],), eps=self.eps)
        out = unit * self.axis.spread(self.weight, unit)
        if self.bias is not None:
            out = out + self.axis.spread(self.bias, unit)
        return out.to(x.dtype)


class _KernelNorm(torch.autograd.Function):
    """The norm kernels with their gradients; what they keep is their input and two numbers a row."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centre: bool, compiled: bool
    ) -> Tensor:
        forward = kernels.compiled(kernels.norm) if compiled else kernels.norm
        out, mean, scale = forward(x, weight, bias, eps, centre)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.centre, ctx.compiled, ctx.biased = centre, compiled, bias is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        backward = kernels.compiled(kernels.norm_backward) if ctx.compiled else kernels.norm_backward
        x, weight, mean, scale = ctx.saved_tensors
        dx, dweight, dbias = backward(grad.contiguous(), x, weight, mean, scale, ctx.centre)
        return dx, dweight, dbias if ctx.biased else None, None, None, None


class _LoopedNorm(torch.autograd.Function):
    """Layer norm, one native call a run: on CPU each call is one fused pass, and mixes bf16 with fp32 gains."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        R, _, D = x.shape
        out = torch.empty_like(x)
        moments: list[Tensor] = []
        for r in range(R):
            out[r], *own = torch.native_layer_norm(x[r], [D], weight[r], None if bias is None else bias[r], eps)
            moments += own
        ctx.save_for_backward(x, weight, bias, *moments)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, *moments = ctx.saved_tensors
        R, _, D = x.shape
        grad = grad.contiguous()
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        dbias = None if bias is None else torch.empty_like(bias)
        for r in range(R):
            own = None if bias is None else bias[r]
            wanted = [True, True, bias is not None]
            dx[r], dweight[r], db = torch.ops.aten.native_layer_norm_backward(
                grad[r], x[r], [D], moments[2 * r], moments[2 * r + 1], weight[r], own, wanted
            )
            if dbias is not None:
                dbias[r] = db
        return dx, dweight, dbias, None


@dataclass(frozen=True)
class ActivationKind:
    """An activation as torch has it, and the kernel that yields it with its derivative."""

    plain: Callable[[Tensor], Tensor]
    kernel: Callable[[Tensor], tuple[Tensor, Tensor]]


ACTIVATIONS: Mapping[str, ActivationKind] = {
    "gelu": ActivationKind(F.gelu, kernels.gelu),
    "gelu_tanh": ActivationKind(partial(F.gelu, approximate="tanh"), kernels.gelu_tanh),
    "silu": ActivationKind(F.silu, kernels.silu),
}


class Activation(nn.Module):
    """An activation whose backward is one product: its derivative is kept instead of its input."""

    def __init__(self, kind: ActivationKind, axis: RunAxis) -> None:
        super().__init__()
        self.kind = kind
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ...) -> (N, ...)."""
        if self.axis.compiled and x.requires_grad:
            out = _CompiledActivation.apply(x, self.kind.kernel)
            assert isinstance(out, Tensor)
            return out
        return self.kind.plain(x)


class _CompiledActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        out, slope = kernels.compiled(kernel)(x)
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad * ctx.saved_tensors[0], None


def hashed_uniform(keys: Tensor, salt: int, counters: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) that are a pure function of row key, salt and element counter.

    keys (N,) int64, counters (K,) int32 -> (N, K) float32. Integer hashing (lowbias32, Wellons 2018)
    rather than a generator: draws do not depend on packing, micro-batches, device or history.
    """
    mixed = (keys * 0x9E3779B1 + salt * 0x85EBCA77) & 0xFFFFFFFF
    mixed = torch.where(mixed >= 2**31, mixed - 2**32, mixed).to(torch.int32)
    h = counters[None] ^ mixed[:, None]
    h = (h ^ ((h >> 16) & 0xFFFF)) * 0x21F0AAAD
    h = (h ^ ((h >> 15) & 0x1FFFF)) * 0x735A2D97
    h = h ^ ((h >> 15) & 0x1FFFF)
    return (h & 0xFFFFFF).float() * 2.0**-24


def element_counters(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A scrambled number (K,) int32 for each element of a row: positions (T, D) or attention scores (H, T, T).

    It does not depend on T, the longest row of whichever batch the row came in: packed runs are cut
    to a common length that each alone need not have.
    """
    numbers = torch.zeros((), dtype=torch.int32, device=device)
    strides = (GRID * GRID, GRID, 1) if len(shape) == 3 else (shape[-1], 1)
    for size, stride in zip(shape, strides, strict=True):
        numbers = numbers[..., None] + torch.arange(size, dtype=torch.int32, device=device) * stride
    return numbers.flatten() * 0x2C1B3C6D


class RunDropout(nn.Module):
    """Dropout whose mask is a pure function of (row key, place in the body, element).

    The rate is `axis.dropout`; `salt` tells the dropouts of one body apart. Inactive while
    `axis.row_keys` is None.
    """

    def __init__(self, salt: int, axis: RunAxis) -> None:
        super().__init__()
        self.salt = salt
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ...) -> (N, ...), scaled by 1 / (1 - p) where kept."""
        keys, p = self.axis.row_keys, self.axis.dropout
        if keys is None or p == 0.0:
            return x
        salt = self.salt + _PLACES * self.axis.use(self.salt)
        keep = hashed_uniform(keys, salt, self.axis.counters(tuple(x.shape[1:]), x.device)).view(x.shape) >= p
        return x * keep.to(x.dtype).mul_(1.0 / (1.0 - p))
