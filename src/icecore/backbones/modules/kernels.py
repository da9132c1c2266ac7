"""The elementwise work between a body's matrix products, as plain tensor functions that compile well.

Each computes in one pass what a library computes in several: an activation with its derivative, a norm with per-run
gains, rounding to 8 bits. Eagerly they are correct but not faster; `compiled` turns each into one loop.
"""

import functools
import importlib.util
import math
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_TANH_SCALE = 2.0 * math.sqrt(2.0 / math.pi)
_TANH_CUBE = 0.044715


@functools.cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel` compiled for every size by torch.compile, at its first call (some seconds).

    If compiling fails (no headers, a broken compiler), it warns once and continues eagerly.
    """
    run = torch.compile(kernel, dynamic=True)

    def call(*given: Any) -> Any:
        nonlocal run
        # plain data, because shapes of parameters and of the bases of views would be compiled in
        bare = [x.data if isinstance(x, Tensor) else x for x in given]
        try:
            return run(*bare)
        except Exception as error:  # of many kinds; an error that is not the compiler's is raised again below
            if run is kernel:
                raise
            result, run = kernel(*bare), kernel
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"torch.compile failed for {kernel.__name__}, which runs without it: {reason}", stacklevel=2)
            return result

    return call


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler for CPUs, Triton for GPUs."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in ("g++", "clang++"))
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU (Hendrycks and Gimpel 2016) and its derivative, each like x."""
    wide = x.float()
    cdf = 0.5 + 0.5 * torch.erf(wide * math.sqrt(0.5))
    slope = cdf + wide * torch.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return (wide * cdf).to(x.dtype), slope.to(x.dtype)


def gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU's tanh form, 0.5 x (1 + tanh(u)) = x sigmoid(2 u), and its derivative, each like x."""
    wide = x.float()
    # beyond 10 the gate is 0 or 1; without the bound huge inputs would multiply it by infinity
    square = (wide * wide).clamp(max=100.0)
    gate = torch.sigmoid(_TANH_SCALE * wide * (1.0 + _TANH_CUBE * square))
    slope = gate + wide * gate * (1.0 - gate) * _TANH_SCALE * (1.0 + 3.0 * _TANH_CUBE * square)
    return (wide * gate).to(x.dtype), slope.to(x.dtype)


def silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """x sigmoid(x) and its derivative, each like x."""
    wide = x.float()
    gate = torch.sigmoid(wide)
    return (wide * gate).to(x.dtype), (gate * (1.0 + wide * (1.0 - gate))).to(x.dtype)


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centre: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm (`centre`) or RMS norm of x (R, K, D) with weight and bias (R, D) fp32.

    Returns the result like x, and mean and reciprocal deviation (R, K, 1) in fp32.
    """
    wide = x.float()
    mean = wide.mean(-1, keepdim=True) if centre else torch.zeros_like(wide[..., :1])
    centred = wide - mean
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    out = centred * scale * weight[:, None]
    if bias is not None:
        out = out + bias[:, None]
    return out.to(x.dtype), mean, scale


def norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, centre: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `norm` for x (R, K, D) like x, weight (R, D) and bias (R, D) in fp32."""
    wide = grad.float()
    unit = (x.float() - mean) * scale
    inner = wide * weight[:, None]
    out = inner - unit * (inner * unit).mean(-1, keepdim=True)
    if centre:
        out = out - inner.mean(-1, keepdim=True)
    return (out * scale).to(x.dtype), (wide * unit).sum(1), wide.sum(1)


def round_rows(x: Tensor, column_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x (M, K), times column_scale (K,) if given, as uint8 about 128 and the scale of each row (M, 1) fp32."""
    wide = x.float()
    if column_scale is not None:
        wide = wide * column_scale
    scale = (wide.abs().amax(-1, keepdim=True) * (1.0 / 127.0)).clamp(min=1e-30)
    # the cast cuts off: 128.5 makes it round to nearest
    return (wide * (1.0 / scale) + 128.5).to(torch.uint8), scale


def rescale_rows(x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x (M, N) * scale (M, 1) + bias (N,), in place."""
    x.mul_(scale)
    return x if bias is None else x.add_(bias)
