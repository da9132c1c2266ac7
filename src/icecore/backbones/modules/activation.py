"""Activations whose backward is one product, because they keep their derivative instead of their input."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.modules import kernels
from icecore.backbones.modules.body_pass import running_pass


@dataclass(frozen=True)
class ActivationKind:
    """An activation as torch computes it, and the kernel that computes it together with its derivative."""

    plain: Callable[[Tensor], Tensor]
    kernel: Callable[[Tensor], tuple[Tensor, Tensor]]


ACTIVATIONS: Mapping[str, ActivationKind] = {
    "gelu": ActivationKind(F.gelu, kernels.gelu),
    "gelu_tanh": ActivationKind(partial(F.gelu, approximate="tanh"), kernels.gelu_tanh),
    "silu": ActivationKind(F.silu, kernels.silu),
}


class Activation(nn.Module):
    """An activation of a body; compiled passes use the kernel."""

    def __init__(self, kind: ActivationKind) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ...) -> (N, ...)."""
        if running_pass().value.compiled and x.requires_grad:
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
