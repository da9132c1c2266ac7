"""Replacing modules of a library's model: find its norms, activations and dropouts, and put icecore's in their place.

Modules are recognised by structure and by trying them on numbers, never by a list of names.
"""

from typing import Any

import torch
from torch import Tensor, nn

from icecore.backbones.modules.activation import ACTIVATIONS, Activation
from icecore.backbones.modules.dropout import RunDropout
from icecore.backbones.modules.norm import NormKind, RunNorm


class ZeroPositions(nn.Module):
    """Takes the place of a position table: positions are added outside the body, so this adds zero."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """A zero that broadcasts to every shape and keeps every dtype."""
        return self.zero  # type: ignore[return-value]


def parent_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the module or parameter called `name`, and what it is called there."""
    path, _, child = name.rpartition(".")
    return model.get_submodule(path), child


def norm_kind(module: nn.Module) -> NormKind | None:
    """The kind of norm that `module` is, or None. It has one vector of gains and perhaps one of biases.

    It is compared with the formulas of layer norm and RMS norm on random numbers, so a norm of yet another kind is not
    mistaken for one of these.
    """
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    vector = shapes.get("weight")
    if not shapes or list(module.children()) or vector is None or len(vector) != 1:
        return None
    if set(shapes) - {"weight", "bias"} or shapes.get("bias", vector) != vector:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, vector[0], generator=generator)
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    eps = norm_eps(module)
    with torch.no_grad():
        try:
            output = module.float()(x)
        except Exception:
            return None
        if torch.allclose(output, nn.functional.layer_norm(x, vector, weight, bias, eps), atol=1e-4):
            return "layer"
        if bias is None and torch.allclose(output, nn.functional.rms_norm(x, vector, gains(module), eps), atol=1e-4):
            return "rms"
    return None


@torch.no_grad()
def gains(module: nn.Module) -> Tensor:
    """The gains (D,) of an RMS norm, of which some families store the difference from 1."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    # normalised already, so the norm returns its gains; epsilon changes the fourth digit at most
    shown = module.float()(torch.ones(1, len(weight)))[0]
    stores_difference = getattr(module, "bias", None) is None and torch.allclose(shown, 1 + weight, atol=1e-2)
    return 1 + weight if stores_difference and not torch.allclose(shown, weight, atol=1e-2) else weight


def norm_eps(module: nn.Module) -> float:
    """The epsilon of a norm, under either of the names in use."""
    return float(getattr(module, "eps", None) or getattr(module, "variance_epsilon", 1e-5))


def replace_norms(model: nn.Module) -> None:
    """Put a `RunNorm` in the place of every norm."""
    for name, module in list(model.named_modules()):
        kind = norm_kind(module)
        if kind is not None:
            parent, child = parent_of(model, name)
            bias = getattr(module, "bias", None)
            weight = gains(module) if kind == "rms" else module.weight
            setattr(parent, child, RunNorm(kind, weight, bias, norm_eps(module)))  # type: ignore[arg-type]


def activation_name(module: nn.Module) -> str | None:
    """Which of ACTIVATIONS `module` computes, or None."""
    if (
        list(module.children())
        or any(True for _ in module.parameters())
        or isinstance(module, (nn.Dropout, ZeroPositions))
    ):
        return None
    x = torch.linspace(-6.0, 6.0, 97)
    try:
        output = module(x)
    except Exception:
        return None
    if not isinstance(output, Tensor) or output.shape != x.shape:
        return None
    # the two forms of GELU are up to 5e-4 apart
    return next((name for name, a in ACTIVATIONS.items() if torch.allclose(output, a.plain(x), atol=1e-5)), None)


def replace_activations(model: nn.Module) -> None:
    """Put an `Activation` in the place of every activation that is one of ACTIVATIONS."""
    for name, module in list(model.named_modules()):
        kind = activation_name(module)
        if kind is not None:
            parent, child = parent_of(model, name)
            setattr(parent, child, Activation(ACTIVATIONS[kind]))


def replace_dropouts(model: nn.Module) -> int:
    """Put a `RunDropout` in the place of every dropout. Returns how many there are."""
    dropouts = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    for salt, name in enumerate(dropouts):
        parent, child = parent_of(model, name)
        setattr(parent, child, RunDropout(salt))
    return len(dropouts)
