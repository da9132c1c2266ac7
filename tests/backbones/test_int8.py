"""8-bit frozen layers: error bounds, gradients of the rounded layer, and whole bodies."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hardware import needs_vnni
from icecore.backbones import BodyRequest, build_backbone
from icecore.backbones.modules.int8 import Int8Linear, convert, linear_weight
from icecore.core import device
from icecore.core.errors import ConfigError
from icecore.model.fpt import FPT
from icecore.model.model_settings import ModelSettings
from icecore.tasks.bits import BitXor

N, K, ROWS = 24, 40, 9


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@needs_vnni
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(ROWS, K), (3, 3, K)])
def test_close_to_the_layer_forward_and_backward(biased: bool, shape: tuple[int, ...]) -> None:
    plain = nn.Linear(K, N, bias=biased)
    layer = Int8Linear(plain.weight, plain.bias)
    # rows of very different size keep their own accuracy
    x = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    probe = torch.randn(*shape[:-1], N)
    found, expected = layer(ours), plain(theirs)
    found.backward(probe)
    expected.backward(probe)
    assert ours.grad is not None
    assert theirs.grad is not None
    for row in range(shape[0]):
        assert relative(found[row].detach(), expected[row].detach()) < 0.02
        assert relative(ours.grad[row], theirs.grad[row]) < 0.02


@needs_vnni
def test_bf16_in_gives_bf16_out_forward_and_backward() -> None:
    plain = nn.Linear(K, N)
    layer = Int8Linear(plain.weight, plain.bias)
    ours = torch.randn(ROWS, K).bfloat16().requires_grad_()
    theirs = ours.detach().float().requires_grad_()
    probe = torch.randn(ROWS, N).bfloat16()
    found, expected = layer(ours), plain(theirs)
    found.backward(probe)
    expected.backward(probe.float())
    assert ours.grad is not None
    assert theirs.grad is not None
    assert found.dtype == ours.grad.dtype == torch.bfloat16
    assert relative(found.detach().float(), expected.detach()) < 0.02
    assert relative(ours.grad.float(), theirs.grad) < 0.02


@needs_vnni
@pytest.mark.parametrize("fast", [True, False])
def test_the_stream_of_8_bits_is_bf16_where_that_is_fast(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(device, "has_fast_bf16", lambda _: fast)
    task = BitXor(3)
    batch = task.train_batch([0], 0, 4)
    model = FPT(task.spec, build_backbone(BodyRequest("minilm", "random", layers=2)), precision="int8")
    exact = FPT(task.spec, build_backbone(BodyRequest("minilm", "random", layers=2)))
    assert model.features(batch).dtype == (torch.bfloat16 if fast else torch.float32)
    assert relative(model(batch).detach(), exact(batch).detach()) < 0.1


@needs_vnni
def test_rows_do_not_depend_on_each_other_and_zero_stays_zero() -> None:
    layer = Int8Linear(torch.randn(N, K), None)
    x = torch.randn(ROWS, K)
    x[4] = 0
    whole = layer(x)
    assert torch.equal(whole[4], torch.zeros(N))
    assert torch.equal(layer(x[2:3]), whole[2:3])


@needs_vnni
def test_linear_layers_of_both_kinds_are_found() -> None:
    conv, linear = Conv1D(N, K), nn.Linear(K, N)
    held, other = linear_weight(conv), linear_weight(linear)
    assert held is not None
    assert other is not None
    assert held.shape == other.shape == (N, K)
    assert linear_weight(nn.LayerNorm(K)) is None
    # somebody reads this one's weight instead of calling it
    assert linear_weight(nn.modules.linear.NonDynamicallyQuantizableLinear(K, N)) is None
    body = nn.Sequential(conv, nn.GELU(), nn.Sequential(nn.Linear(N, K)))
    x = torch.randn(ROWS, K)
    expected = body(x).detach()
    assert convert(body) == 2
    assert not list(body.parameters())
    assert relative(body(x), expected) < 0.05


@needs_vnni
@pytest.mark.parametrize("name", ["minilm", "gpt2", "vit-base", "t5-small", "longformer-base", "lstm", "lstm-star"])
def test_a_body_in_8_bits_is_close_and_counts_the_same(name: str) -> None:
    task = BitXor(3)
    batch = task.train_batch([0, 1], 0, 4)

    def model(precision: str) -> FPT:
        return FPT(task.spec, build_backbone(BodyRequest(name, "random", layers=2)), [0, 1], precision=precision)

    wide, narrow = model("fp32"), model("int8")
    assert narrow.counts() == wide.counts()
    assert narrow.body_fingerprint == wide.body_fingerprint
    assert narrow.program().keys() == wide.program().keys()
    expected, found = wide(batch), narrow(batch)
    assert relative(found.detach(), expected.detach()) < 0.05
    expected.square().sum().backward()
    found.square().sum().backward()
    for part, parameter in wide.trained().items():
        own = narrow.trained()[part].grad
        assert own is not None
        assert parameter.grad is not None
        assert nn.functional.cosine_similarity(own.flatten(), parameter.grad.flatten(), 0) > 0.99


def test_trained_bodies_are_refused() -> None:
    body = build_backbone(BodyRequest("minilm", "random", layers=1))
    with pytest.raises(ConfigError, match="int8 is for frozen weights"):
        FPT(BitXor(2).spec, body, [0], ModelSettings(("feedforward",)), precision="int8")
