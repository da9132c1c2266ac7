"""Frozen linear layers in 8-bit integers, for CPUs that multiply these several times faster than fp32 (VNNI).

Weights are rounded once, per output; inputs and gradients are rounded in each pass, per row. A frozen layer has no
weight gradient, the only product that needs more bits (SwitchBack, Wortsman et al. 2023), so both others are 8-bit.
"""

from typing import Any

import torch
from torch import Tensor, nn

from icecore.backbones.modules import kernels
from icecore.backbones.modules.body_pass import running_pass
from icecore.backbones.modules.patching import parent_of

# rows rounded at a time when kernels are not compiled: the passes over a block then stay in cache
_EAGER_NUMBERS = 2**18


class Int8Linear(nn.Module):
    """x W^T + b for a frozen W (N, K), in 8 bits; results like x, fp32 or bf16.

    Forward and backward use the same rounded W, so the gradient is that of a slightly different frozen
    body, and only the rounding of activations and gradients is noise.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        wide = weight.detach().float()
        N, K = wide.shape
        scale = (wide.abs().amax(1) / 127).clamp(min=1e-30)
        rounded = (wide / scale[:, None]).round().to(torch.int8)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float(), persistent=False)
        # oneDNN's own layouts, one for each direction; one cannot be converted into the other
        self.forward_weight = _pack(rounded)
        self.backward_weight = _pack(rounded.t())
        self.ones, self.zeros = torch.ones(K), torch.zeros(max(N, K), dtype=torch.long)

    @property
    def weight(self) -> Tensor:
        """An empty int8 tensor, for library code that asks for its dtype; only oneDNN can read the packed numbers."""
        return self.ones.new_empty(0, dtype=torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N)."""
        out = _Int8Product.apply(x.reshape(-1, x.shape[-1]), self, running_pass().value.compiled)
        assert isinstance(out, Tensor)
        return out.view(
            *x.shape[:-1], -1
        )  # here and not in the function, because a view that a function returned cannot be changed in place


class _Int8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Int8Linear, compiled: bool) -> Tensor:
        ctx.layer, ctx.compiled = layer, compiled
        return _product(x, None, layer.forward_weight, layer.scale, layer.bias, layer.zeros, compiled)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        layer = ctx.layer
        product = _product(grad, layer.scale, layer.backward_weight, layer.ones, None, layer.zeros, ctx.compiled)
        return product, None, None


def _product(
    x: Tensor,
    column_scale: Tensor | None,
    packed: Tensor,
    out_scale: Tensor,
    bias: Tensor | None,
    zeros: Tensor,
    compiled: bool,
) -> Tensor:
    """(x * column_scale) times the packed matrix, times out_scale, + bias: (n, K) -> (n, N)."""
    if compiled:
        rounded, row_scale = kernels.compiled(kernels.round_rows)(x, column_scale)
    else:
        size = max(1, _EAGER_NUMBERS // x.shape[1])
        parts = [kernels.round_rows(part, column_scale) for part in x.split(size)]
        rounded, row_scale = (torch.cat(held) for held in zip(*parts, strict=True))
    product = torch.ops.onednn.qlinear_pointwise(
        rounded, 1.0, 128, packed, out_scale, zeros[: len(out_scale)], None, 1.0, 0, x.dtype, "none", [], ""
    )
    rescale = kernels.compiled(kernels.rescale_rows) if compiled else kernels.rescale_rows
    return rescale(product, row_scale, bias)


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)


def convert(body: nn.Module) -> int:
    """Replace every linear layer of `body` by an `Int8Linear`. Returns how many there were."""
    layers = [(name, module) for name, module in body.named_modules() if linear_weight(module) is not None]
    for name, module in layers:
        parent, child = parent_of(body, name)
        weight = linear_weight(module)
        assert weight is not None
        bias = module.bias
        assert bias is None or isinstance(bias, Tensor)
        setattr(parent, child, Int8Linear(weight, bias))
    return len(layers)


def linear_weight(module: nn.Module) -> Tensor | None:
    """The matrix (out, in) of a linear layer, transformers' transposed `Conv1D` included; None for other modules.

    Classes derived from `nn.Linear` do not count, because some code may read their weight instead of calling them.
    """
    if type(module) is nn.Linear:
        return module.weight
    if type(module).__name__ == "Conv1D" and isinstance(module.weight, Tensor):
        return module.weight.t()
    return None
