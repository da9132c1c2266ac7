"""Recurrent bodies: the hand-written backward pass, the run axis, matched counts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.backbone import Backbone, BodyRequest, Role
from icecore.backbones.lstm import (
    LayerNormLSTM,
    build_lstm,
    build_lstm_star,
    build_matched,
    matched_hidden_sizes,
)
from icecore.backbones.modules.body_pass import BodyPass, NormParameters
from icecore.backbones.modules.norm import RunNorm
from icecore.backbones.recurrence import Recurrence
from icecore.core.errors import ConfigError, WeightsError

D, N, T = 8, 3, 5
OPTIONS = {"width": str(D)}
BODIES: dict[str, Callable[[], Backbone]] = {
    "lstm": lambda: build_lstm(BodyRequest("lstm", "random", options=OPTIONS)),
    "lstm-star": lambda: build_lstm_star(BodyRequest("lstm-star", "random", layers=4, options=OPTIONS)),
    "lstm-matched": lambda: build_matched(D, 2, frozen=2000, norms=5, positions=16),
}


@pytest.fixture(params=BODIES)
def body(request: pytest.FixtureRequest) -> Backbone:
    return freeze(BODIES[request.param]())


def freeze(body: Backbone) -> Backbone:
    """Only norms learn, and they are no longer at their start, so that every term counts."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in body.named_parameters():
        norm = body.roles()[name] is Role.NORM
        parameter.requires_grad_(norm)
        if norm:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return body.eval()


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def norm_of(norm: RunNorm, x: Tensor) -> Tensor:
    assert norm.bias is not None
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def plain_layer(layer: LayerNormLSTM, x: Tensor) -> Tensor:
    """The published cell, one position at a time, by autograd."""
    h = c = torch.zeros_like(x[:, 0])
    hidden = []
    for x_t in x.unbind(1):
        preact = norm_of(layer.input_norm, F.linear(x_t, layer.input.weight, layer.input.bias))
        preact = preact + norm_of(layer.recurrent_norm, F.linear(h, layer.recurrent.weight, layer.recurrent.bias))
        i, f, o = preact[:, : 3 * D].sigmoid().chunk(3, 1)
        c = norm_of(layer.cell_norm, f * c + i * preact[:, 3 * D :].tanh())
        h = o * c.tanh()
        hidden.append(h)
    return torch.stack(hidden, 1)


def recurrence_inputs(rows: int, weights: bool) -> tuple[Tensor, ...]:
    width = 3
    shapes = [(2, 3, 4 * width), (4 * width, width), (4 * width,), (rows, 4 * width), (rows, width), (rows, width)]
    inputs = [randn(*shape, seed=seed, dtype=torch.float64) for seed, shape in enumerate(shapes)]
    return tuple(x.requires_grad_(weights or k not in (1, 2)) for k, x in enumerate(inputs))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("weights", [True, False])
def test_recurrence_gradcheck(rows: int, weights: bool) -> None:
    assert torch.autograd.gradcheck(Recurrence.apply, recurrence_inputs(rows, weights))


@pytest.mark.parametrize("residual", [False, True])
def test_equals_plain_loop(residual: bool) -> None:
    # in float64, so that the bounds do not depend on how a processor rounds
    body = freeze(BODIES["lstm-star" if residual else "lstm"]()).double().requires_grad_(True)
    x = randn(N, T, D).double().requires_grad_()
    target = randn(N, T, D, seed=2).double()

    def reference(x: Tensor) -> Tensor:
        layers = [layer for layer in body.modules() if isinstance(layer, LayerNormLSTM)]
        for layer in layers:
            x = x * residual + plain_layer(layer, x)
        return x

    learned = [x, *body.parameters()]
    ours, plain = body(x), reference(x)
    torch.testing.assert_close(ours, plain)
    grads = torch.autograd.grad((ours * target).sum(), learned)
    expected = torch.autograd.grad((plain * target).sum(), learned)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-10)


def programs(body: Backbone, runs: int) -> dict[nn.Module, NormParameters]:
    """Gains and biases of R programs, which all differ, for every norm of the body."""

    def differing(value: Tensor, seed: int) -> Tensor:
        return (value.detach() + 0.2 * randn(runs, len(value), seed=seed)).requires_grad_()

    parameters: dict[nn.Module, NormParameters] = {}
    for norm in body.norms().values():
        assert norm.bias is not None
        parameters[norm] = NormParameters(differing(norm.weight, 6), differing(norm.bias, 4))
    return parameters


def alone(body: Backbone, parameters: dict[nn.Module, NormParameters], run: int) -> Backbone:
    """The same body with the parameters of one run as its norms' own."""
    for norm, (weight, bias) in zip(body.norms().values(), parameters.values(), strict=True):
        assert bias is not None
        norm.weight = nn.Parameter(weight.detach()[run].clone())
        norm.bias = nn.Parameter(bias.detach()[run].clone())
    return body


@pytest.mark.parametrize("name", BODIES)
def test_packed_rows_equal_each_run_alone(name: str) -> None:
    runs, rows = 3, 2
    together = freeze(BODIES[name]())
    parameters = programs(together, runs)
    x = randn(runs * rows, T, D)
    hidden = together(x, body_pass=BodyPass(parameters))
    hidden.square().sum().backward()
    for run in range(runs):
        single = alone(freeze(BODIES[name]()), parameters, run)
        own = single(x[run * rows : (run + 1) * rows])
        own.square().sum().backward()
        torch.testing.assert_close(hidden[run * rows : (run + 1) * rows], own)
        for norm, packed in zip(single.norms().values(), parameters.values(), strict=True):
            for parameter, packed_parameter in ((norm.weight, packed.weight), (norm.bias, packed.bias)):
                assert parameter is not None
                assert parameter.grad is not None
                assert packed_parameter is not None
                assert packed_parameter.grad is not None
                torch.testing.assert_close(packed_parameter.grad[run], parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BODIES)
def test_freely_mixed_rows(name: str) -> None:
    body = freeze(BODIES[name]())
    parameters = programs(body, 3)
    x = randn(6, T, D)
    grouped = body(x, body_pass=BodyPass(parameters))
    order = torch.tensor([4, 0, 3, 5, 1, 2])
    mixed = body(x[order], body_pass=BodyPass(parameters, run_of_row=order // 2))
    torch.testing.assert_close(mixed, grouped[order])


def test_state_and_weights_are_fixed(body: Backbone) -> None:
    x = randn(N, T, D)
    assert torch.equal(body(x), body(x))
    state = torch.get_rng_state()
    again = freeze(BODIES[body.info.name]())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), again.parameters(), strict=True))


def test_seeds_differ_and_stay_in_bounds() -> None:
    first, second = (build_lstm(BodyRequest("lstm", "random", seed=s, options=OPTIONS)) for s in (0, 1))
    for name, parameter in first.named_parameters():
        if first.roles()[name] is Role.OTHER:
            assert parameter.abs().max() <= D**-0.5
            assert not torch.equal(parameter, second.get_parameter(name))


def test_norms_start_at_one_and_zero() -> None:
    for norm in BODIES["lstm"]().norms().values():
        assert norm.bias is not None
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_roles_are_total(body: Backbone) -> None:
    roles = body.roles()
    assert set(roles) == {name for name, _ in body.named_parameters()}
    assert set(roles.values()) == {Role.NORM, Role.OTHER}


def test_counts_of_the_cell() -> None:
    counts = build_lstm(BodyRequest("lstm", "random", layers=1, options=OPTIONS)).counts()
    assert counts[Role.NORM] == 2 * (4 * D + 4 * D + D)
    assert counts[Role.OTHER] == 2 * (4 * D * D + 4 * D)


def test_no_gradient_to_frozen_weights(body: Backbone) -> None:
    body(randn(N, T, D)).square().sum().backward()
    for name, parameter in body.named_parameters():
        assert (parameter.grad is not None) == (body.roles()[name] is Role.NORM), name


def test_padding_cannot_reach_real_positions(body: Backbone) -> None:
    x = randn(N, T, D)
    mask = torch.arange(T) < torch.tensor([[2], [4], [5]])
    other = torch.where(mask[..., None], x, 9.0)
    assert torch.equal(body(x, mask)[mask], body(other, mask)[mask])


@pytest.mark.parametrize("name", BODIES)
def test_frozen_weights_in_bf16(name: str) -> None:
    exact, cast = freeze(BODIES[name]()), freeze(BODIES[name]())
    for key, parameter in cast.named_parameters():
        if cast.roles()[key] is not Role.NORM:
            parameter.data = parameter.data.bfloat16()
    x = randn(N, T, D)
    hidden = cast(x.bfloat16())
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(hidden.float(), exact(x), rtol=0.1, atol=0.15)
    hidden.float().square().sum().backward()
    exact(x).square().sum().backward()
    grads = [torch.cat([p.grad.flatten() for p in b.parameters() if p.grad is not None]) for b in (cast, exact)]
    assert F.cosine_similarity(*grads, dim=0) > 0.98


def test_full_training_under_autocast(body: Backbone) -> None:
    body.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = body(randn(N, T, D)).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in body.parameters())


# width, layers, frozen parameters of the blocks (12 D^2 + 9 D each where all have biases), norms
TRANSFORMERS = {
    "gpt2": (768, 12, 12 * (12 * 768**2 + 9 * 768), 25),
    "gpt2-medium": (1024, 24, 24 * (12 * 1024**2 + 9 * 1024), 49),
    "minilm": (384, 6, 6 * (12 * 384**2 + 9 * 384), 13),
    "smollm2": (576, 30, 30 * 3_539_520, 61),
    "odd": (96, 5, 5 * (12 * 96**2 + 9 * 96), 11),
    "narrow-feedforward": (64, 3, 3 * (6 * 64**2), 8),
    "tiny": (16, 2, 2 * (12 * 16**2 + 9 * 16), 5),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_matched_counts(name: str) -> None:
    width, layers, frozen, norms = TRANSFORMERS[name]
    sizes = matched_hidden_sizes(width, layers, frozen)
    assert len(sizes) == layers
    assert max(sizes) - min(sizes) <= 1
    modules = [m for h in sizes for m in (nn.LSTM(width, h, device="meta"), nn.Linear(h, width, device="meta"))]
    count = sum(p.numel() for module in modules for p in module.parameters())
    assert abs(count - frozen) <= (8 * max(sizes) + 5 * width + 12) / 2  # half of one hidden unit
    if width >= 64:
        assert count == pytest.approx(frozen, rel=0.01)
    if width < 400:  # building the larger ones takes long
        counts = build_matched(width, layers, frozen, norms, positions=10).counts()
        assert counts[Role.OTHER] == count
        assert counts[Role.NORM] == norms * 2 * width
        assert counts[Role.POSITION] == 10 * width


@pytest.mark.parametrize(("kind", "bias"), [("layer", True), ("layer", False), ("rms", False)])
def test_matched_norms_and_positions(kind: str, bias: bool) -> None:
    for norms in (4, 5, 6):
        body = build_matched(D, 2, 2000, norms, "rms" if kind == "rms" else "layer", bias, positions=0)
        assert body.counts()[Role.NORM] == norms * D * (1 + bias)
        assert {norm.kind for norm in body.norms().values()} == {kind}
        assert body.position_table is None
        assert body.takes_positions


def test_matched_is_differentiable_in_evaluation() -> None:
    """CuDNN differentiates an LSTM in training mode only, so that `eval` must not reach it."""
    body = BODIES["lstm-matched"]().eval()
    assert all(module.training for module in body.modules() if isinstance(module, nn.LSTM))
    assert not body.training


def test_positions() -> None:
    plain, star = BODIES["lstm"](), BODIES["lstm-star"]()
    assert plain.position_table is None
    assert not plain.takes_positions
    assert star.takes_positions
    assert star.position_table is not None
    assert star.position_table.shape == (1024, D)
    assert star.position_table.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("build", "layers"), [(build_lstm, 3), (build_lstm_star, 12)])
def test_defaults_are_the_papers(build: Callable[[BodyRequest], Backbone], layers: int) -> None:
    info = build(BodyRequest("lstm", "random", options=OPTIONS)).info
    assert (info.layers, info.weights, info.causal, info.max_length) == (layers, "random", True, None)
    assert build(BodyRequest("lstm", "random", layers=1)).info.width == 768


@pytest.mark.parametrize("weights", ["pretrained", "statistics"])
@pytest.mark.parametrize("build", [build_lstm, build_lstm_star])
def test_weights_that_do_not_exist(build: Callable[[BodyRequest], Backbone], weights: str) -> None:
    with pytest.raises(WeightsError, match=f"lstm has no {weights} weights.*'random'.*, or give a weights file"):
        build(BodyRequest("lstm", weights))


def test_wrong_requests() -> None:
    with pytest.raises(ConfigError, match=r"Unknown option of lstm 'widht'\. Did you mean 'width'"):
        build_lstm(BodyRequest("lstm", "random", options={"widht": "8"}))
    with pytest.raises(ConfigError, match="lstm needs at least 1 layer, but 0 were requested"):
        build_lstm(BodyRequest("lstm", "random", layers=0, options=OPTIONS))
    with pytest.raises(ConfigError, match=r"an LSTM of 2 layers can have 4 to 6 norms, but the body has 7\. Match"):
        build_matched(D, 2, 2000, norms=7)
    with pytest.raises(ConfigError, match="cannot be matched to 50 frozen parameters, because it has at least 120"):
        build_matched(D, 2, 50, norms=5)
