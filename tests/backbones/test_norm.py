"""The norm that is put into bodies, against torch and its formula: for one run, packed runs, and freely mixed rows."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.backbones.modules.body_pass import BodyPass, NormParameters, run_pass
from icecore.backbones.modules.norm import NormKind, RunNorm

D, T, B, R = 6, 4, 2, 3
EPS = 1e-3
NORMS = [("layer", True), ("layer", False), ("rms", True), ("rms", False)]


def make_norm(kind: NormKind, biased: bool) -> RunNorm:
    return RunNorm(kind, torch.randn(D), torch.randn(D) if biased else None, EPS)


def make_parameters(biased: bool, runs: int = 1) -> NormParameters:
    """Gains and biases (R, D) of the programs of a pass, which all differ."""
    weight, bias = torch.randn(runs, D).requires_grad_(), torch.randn(runs, D).requires_grad_()
    return NormParameters(weight, bias if biased else None)


def tensors_of(parameters: NormParameters) -> list[Tensor]:
    return [tensor for tensor in parameters if tensor is not None]


def normalise(norm: RunNorm, x: Tensor, parameters: NormParameters, run_of_row: Tensor | None = None) -> Tensor:
    """`norm` in a pass of programs with these parameters."""
    with run_pass(BodyPass({norm: parameters}, run_of_row)):
        return norm(x)


def plain_norm(norm: RunNorm, x: Tensor, parameters: NormParameters, run: int = 0) -> Tensor:
    """The formula, written out."""
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    out = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * parameters.weight[run]
    return out if parameters.bias is None else out + parameters.bias[run]


@pytest.mark.parametrize(("kind", "biased"), NORMS)
@pytest.mark.parametrize("shape", [(B, D), (B, T, D), (B, T, 2, D)])
def test_norm_agrees_with_its_formula_and_its_gradients(kind: NormKind, biased: bool, shape: tuple[int, ...]) -> None:
    norm, parameters = make_norm(kind, biased), make_parameters(biased)
    x = torch.randn(shape, requires_grad=True)
    result, expected = normalise(norm, x, parameters), plain_norm(norm, x, parameters)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    probe, inputs = torch.randn(shape), [x, *tensors_of(parameters)]
    grads = zip(torch.autograd.grad(result, inputs, probe), torch.autograd.grad(expected, inputs, probe), strict=True)
    for ours, theirs in grads:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "biased"), NORMS)
@pytest.mark.parametrize("runs", [1, R])
def test_norm_in_bf16_rounds_only_its_result(kind: NormKind, biased: bool, runs: int) -> None:
    norm, parameters = make_norm(kind, biased), make_parameters(biased, runs)
    x = torch.randn(runs * B, T, D, dtype=torch.bfloat16)
    expected = torch.cat([plain_norm(norm, part.float(), parameters, r) for r, part in enumerate(x.split(B))])
    result = normalise(norm, x, parameters)
    assert result.dtype == torch.bfloat16
    # one unit in the last place of eight bits
    torch.testing.assert_close(result.float(), expected, atol=1e-6, rtol=2.0**-8)
    result.float().sum().backward()
    assert parameters.weight.grad is not None
    assert parameters.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("kind", "biased"), NORMS)
def test_norm_run_major_and_mixed_rows_equal_each_run_alone(kind: NormKind, biased: bool) -> None:
    norm, parameters = make_norm(kind, biased), make_parameters(biased, R)
    x = torch.randn(R * B, T, D)
    alone = torch.cat([plain_norm(norm, part, parameters, r) for r, part in enumerate(x.split(B))])
    torch.testing.assert_close(normalise(norm, x, parameters), alone, atol=1e-6, rtol=1e-5)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    mixed = normalise(norm, x[order], parameters, run_of_row=order // B)
    torch.testing.assert_close(mixed, alone[order], atol=1e-6, rtol=1e-5)


def test_norm_gives_each_run_only_its_own_gradient() -> None:
    norm, parameters = make_norm("layer", True), make_parameters(True, R)
    loss = normalise(norm, torch.randn(R * B, T, D), parameters).square().view(R, -1).sum(1)
    loss[1].backward()
    for parameter in tensors_of(parameters):
        assert parameter.grad is not None
        assert parameter.grad[1].abs().min() > 0
        assert torch.equal(parameter.grad[[0, 2]], torch.zeros(2, D))
    assert all(parameter.grad is None for parameter in norm.parameters())


@pytest.mark.parametrize(("kind", "biased"), NORMS)
def test_norm_uses_its_own_parameters_unless_the_pass_brings_others(kind: NormKind, biased: bool) -> None:
    norm, other = make_norm(kind, biased), make_norm(kind, biased)
    x = torch.randn(B, T, D)
    expected = plain_norm(norm, x, NormParameters(norm.weight[None], None if norm.bias is None else norm.bias[None]))
    torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=1e-5)
    with run_pass(BodyPass({other: make_parameters(biased)})):
        torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(other(x), expected)


def test_norm_kinds_are_all_covered() -> None:
    assert {kind for kind, _ in NORMS} == set(NormKind.__args__)
    x = torch.randn(2, D)
    norm = make_norm("layer", True)
    assert norm.bias is not None
    torch.testing.assert_close(norm(x), F.layer_norm(x, (D,), norm.weight, norm.bias, EPS))
