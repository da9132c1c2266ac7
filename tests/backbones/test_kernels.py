"""Elementwise kernels against torch's own functions and autograd, eager and (slow) compiled."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.backbones.modules import kernels
from icecore.backbones.modules.activation import ACTIVATIONS, Activation
from icecore.backbones.modules.body_pass import BodyPass, NormParameters, run_pass
from icecore.backbones.modules.norm import NormKind, RunNorm

R, K, D = 3, 5, 16
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not kernels.can_compile(CPU), reason="no C++ compiler here")


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_with_derivative_agree_with_autograd(name: str, dtype: torch.dtype) -> None:
    kind = ACTIVATIONS[name]
    x = torch.linspace(-8, 8, 1001).to(dtype)
    wide = x.double().requires_grad_()
    expected = kind.plain(wide)
    (slope,) = torch.autograd.grad(expected.sum(), wide)
    found, found_slope = kind.kernel(x)
    assert found.dtype == found_slope.dtype == dtype
    atol, rtol = (2e-6, 1e-5) if dtype == torch.float32 else (1e-6, 2.0**-8)
    torch.testing.assert_close(found.double(), expected.detach(), atol=atol, rtol=rtol)
    torch.testing.assert_close(found_slope.double(), slope, atol=atol, rtol=rtol)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_far_out_are_finite(name: str) -> None:
    x = torch.tensor([-1e30, -1e4, -50.0, 50.0, 1e4])
    found, slope = ACTIVATIONS[name].kernel(x)
    torch.testing.assert_close(found, x.clamp(min=0.0))
    torch.testing.assert_close(slope, (x > 0).float())


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("biased", [True, False])
def test_norm_kernel_and_its_gradient_agree_with_autograd(kind: NormKind, biased: bool) -> None:
    x = (torch.randn(R, K, D) + 1).double().requires_grad_()
    weight = torch.randn(R, D).double().requires_grad_()
    bias = torch.randn(R, D).double().requires_grad_() if biased else None
    plain = F.layer_norm if kind == "layer" else F.rms_norm
    expected = plain(x, (D,), eps=1e-3) * weight[:, None] + (0 if bias is None else bias[:, None])
    probe = torch.randn(R, K, D).double()
    held = [x, weight, *([] if bias is None else [bias])]
    grads = torch.autograd.grad(expected, held, probe)
    narrow = [None if p is None else p.detach().float() for p in (x, weight, bias)]
    out, mean, scale = kernels.norm(narrow[0], narrow[1], narrow[2], 1e-3, kind == "layer")  # type: ignore[arg-type]
    torch.testing.assert_close(out, expected.detach().float(), atol=1e-5, rtol=1e-5)
    found = kernels.norm_backward(probe.float(), narrow[0], narrow[1], mean, scale, kind == "layer")  # type: ignore[arg-type]
    for ours, theirs in zip(found, grads, strict=False):
        torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=1e-4)


def test_rows_are_rounded_to_within_half_a_step() -> None:
    x = torch.randn(7, 33) * torch.logspace(-6, 6, 7)[:, None]
    rounded, scale = kernels.round_rows(x)
    assert rounded.dtype == torch.uint8
    assert int(rounded.min()) >= 1
    error = (kernels.rescale_rows(rounded.float() - 128, scale, None) - x).abs()
    assert (error <= 0.5001 * scale).all()
    torch.testing.assert_close(scale * 127, x.abs().amax(1, keepdim=True))
    # a row of zeros stays one
    nothing, scale = kernels.round_rows(torch.zeros(1, 4))
    assert torch.equal(nothing, torch.full((1, 4), 128, dtype=torch.uint8))
    assert scale.isfinite().all()


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_pieces_equal_eager_ones(dtype: torch.dtype) -> None:
    def outcome(compiled: bool, runs: int, rows: int) -> list[Tensor]:
        torch.manual_seed(0)
        norm = RunNorm("layer", torch.randn(D), torch.randn(D), 1e-3)
        weight, bias = torch.randn(runs, D).requires_grad_(), torch.randn(runs, D).requires_grad_()
        x = torch.randn(runs * rows, 4, D).to(dtype).requires_grad_()
        with run_pass(BodyPass({norm: NormParameters(weight, bias)}, compiled=compiled)):
            out = Activation(ACTIVATIONS["gelu_tanh"])(norm(x))
        probe = torch.randn(out.shape).to(dtype)
        return [out, *torch.autograd.grad(out, [x, weight, bias], probe)]

    atol, rtol = (1e-5, 1e-4) if dtype == torch.float32 else (0.05, 0.05)
    for runs, rows in ((1, 2), (3, 2), (2, 5)):
        for ours, theirs in zip(outcome(True, runs, rows), outcome(False, runs, rows), strict=True):
            torch.testing.assert_close(ours, theirs, atol=atol, rtol=rtol)


def test_compilers_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    assert not kernels.can_compile(CPU)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert kernels.can_compile(CPU)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    assert not kernels.can_compile(torch.device("cuda"))


def test_where_compiling_fails_the_kernel_runs_eager_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("fatal error: Python.h\nmore")

    monkeypatch.setattr(torch, "compile", lambda kernel, dynamic: fail)
    kernels.compiled.cache_clear()
    call, x = kernels.compiled(kernels.silu), torch.randn(5)
    with pytest.warns(
        UserWarning, match="torch.compile failed for silu, which runs without it: fatal error: Python.h$"
    ):
        first = call(x)
    for ours, theirs in zip((*first, *call(x)), 2 * kernels.silu(x), strict=True):
        assert torch.equal(ours, theirs)
    # a mistake of the caller's is no compiler's fault
    with pytest.raises(AttributeError):
        call(None)
    kernels.compiled.cache_clear()
