"""The norm that icecore puts in the place of every norm of a body: gains and biases are those of each row's program.

In training rows are run-major (N = R * B), so gains (R, D) meet rows viewed as (R, B, ...). In serving each row names
its program.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.modules import kernels
from icecore.backbones.modules.body_pass import NormParameters, per_row, running_pass

NormKind = Literal["layer", "rms"]


class RunNorm(nn.Module):
    """Layer norm or RMS norm with gains and biases for each program of a pass, computed in fp32.

    The module holds the body's own gains and biases, which are frozen; those of the programs come with the pass
    (`BodyPass.norms`).

    Parameters:
        kind: "layer" (Ba et al. 2016) or "rms" (Zhang and Sennrich 2019)
        weight: (D,) gains
        bias: (D,) or None
        eps: added to the variance
    """

    def __init__(self, kind: NormKind, weight: Tensor, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.kind: NormKind = kind
        self.eps = eps
        self.weight = nn.Parameter(weight.detach().float().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone())

    def pass_parameters(self) -> NormParameters:
        """Gains and biases (R, D) of the running pass; the body's own have R = 1."""
        given = running_pass().value.norms.get(self)
        if given is not None:
            return given
        return NormParameters(self.weight[None], None if self.bias is None else self.bias[None])

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ..., D) -> (N, ..., D) in x's dtype."""
        value = running_pass().value
        weight, bias = self.pass_parameters()
        if value.run_of_row is not None:
            return self._mixed(x, weight, bias, value.run_of_row)
        R, D = weight.shape
        grouped = x.reshape(R, -1, D)
        layer, on_cpu = self.kind == "layer", x.device.type == "cpu"
        if R == 1 and layer and (on_cpu or x.dtype == torch.float32):
            # torch's own pass is the fastest for one run; on a CPU it accepts bf16 with fp32 gains
            out = F.layer_norm(grouped, (D,), weight[0], None if bias is None else bias[0], self.eps)
        elif R == 1 and not layer and bias is None and x.dtype == torch.float32 and not value.compiled:
            out = F.rms_norm(grouped, (D,), weight[0], self.eps)
        elif layer and on_cpu and not value.compiled:
            out = _LoopedNorm.apply(grouped, weight, bias, self.eps)
        else:
            out = _KernelNorm.apply(grouped, weight, bias, self.eps, layer, value.compiled)
        assert isinstance(out, Tensor)
        return out.view(x.shape)

    def _mixed(self, x: Tensor, weight: Tensor, bias: Tensor | None, run_of_row: Tensor) -> Tensor:
        """Rows of any program in any order: one set of gains is gathered for each row."""
        normalise = F.layer_norm if self.kind == "layer" else F.rms_norm
        unit = normalise(x.float(), (x.shape[-1],), eps=self.eps)
        out = unit * per_row(weight, unit, run_of_row)
        if bias is not None:
            out = out + per_row(bias, unit, run_of_row)
        return out.to(x.dtype)


class _KernelNorm(torch.autograd.Function):
    """The norm kernels with their gradients. They keep their input and two numbers per row for backward."""

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
    """Layer norm with one native call per run: on a CPU one fused pass, which accepts bf16 with fp32 gains."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        R, _, D = x.shape
        out = torch.empty_like(x)
        moments: list[Tensor] = []
        for r in range(R):
            out[r], *statistics = torch.native_layer_norm(x[r], [D], weight[r], None if bias is None else bias[r], eps)
            moments += statistics
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
            run_bias = None if bias is None else bias[r]
            outputs = [True, True, bias is not None]
            dx[r], dweight[r], db = torch.ops.aten.native_layer_norm_backward(
                grad[r], x[r], [D], moments[2 * r], moments[2 * r + 1], weight[r], run_bias, outputs
            )
            if dbias is not None:
                dbias[r] = db
        return dx, dweight, dbias, None
