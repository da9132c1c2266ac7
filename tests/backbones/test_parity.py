"""Every family's body against the library's own model on tiny random weights: values, gradients, runs.

The reference is transformers with its eager attention, its own norms and its own position table.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icecore.backbones import families
from icecore.backbones.backbone import gather
from icecore.backbones.families import FAMILIES
from icecore.backbones.huggingface import HuggingFaceBackbone
from icecore.backbones.modules import attention, dropout
from icecore.backbones.modules.activation import Activation
from icecore.backbones.modules.body_pass import BodyPass, NormParameters
from icecore.backbones.modules.dropout_draws import CounterCache, DropoutDraws, hashed_uniform
from tiny_models import TABLE, TINY, D, tiny_body, tiny_config, tiny_model

VISION_FAMILIES = ("vit", "deit", "dinov2")
T, N, R = 16, 3, 3
LENGTHS = torch.tensor([16, 9, 5])


def reference_forward(case: str, model: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """The library's forward on embeddings x (N, T, D), positions included."""
    if TINY[case][0] not in VISION_FAMILIES:
        return model(inputs_embeds=x, attention_mask=None if mask is None else mask.long())[0]
    # the library's vision transformers take pixels and no mask: their blocks by hand
    first = FAMILIES[TINY[case][0]].first_position(model.config)
    hidden = x + model.embeddings.position_embeddings[:, first : first + x.shape[1]]
    additive = None
    if mask is not None:
        additive = torch.zeros(N, 1, 1, x.shape[1]).masked_fill(~mask[:, None, None], torch.finfo().min)
    for layer in families.blocks_of(model, 2):
        out = layer(hidden, additive)
        hidden = out[0] if isinstance(out, tuple) else out
    return model.layernorm(hidden)


def with_positions(body: HuggingFaceBackbone, x: Tensor) -> Tensor:
    table = body.position_table
    return x if table is None else x + table[torch.arange(x.shape[1]) % len(table)]


def mask_of(kind: str, length: int = T) -> Tensor | None:
    lengths = {"none": None, "full": torch.full((N,), length), "padded": LENGTHS * length // T}[kind]
    return None if lengths is None else torch.arange(length) < lengths[:, None]


def pass_with(body: HuggingFaceBackbone, gains: dict[str, Tensor], run_of_row: Tensor | None = None) -> BodyPass:
    """A pass in which each norm has the rows (R, D) of `gains`, and biases made of them where it has any."""
    norms: dict[nn.Module, NormParameters] = {}
    for name, norm in body.norms().items():
        norms[norm] = NormParameters(gains[name], None if norm.bias is None else gains[name] - 1)
    return BodyPass(norms, run_of_row)


@pytest.fixture(params=["explicit", "sdpa", "blocks"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(attention, "QUERY_BLOCK", 5)
    monkeypatch.setattr(attention, "PLAIN_TYPES", () if request.param == "sdpa" else (torch.float32, torch.bfloat16))
    monkeypatch.setattr(attention, "EAGER_SCORES", 512 * 512 if request.param == "explicit" else 0)
    return request.param


def test_every_family_is_tried() -> None:
    assert {model_type for model_type, _ in TINY.values()} == set(FAMILIES)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", ["none", "full", "padded"])
@pytest.mark.parametrize("case", TINY)
def test_values_and_gradients_agree_with_the_library(case: str, kind: str) -> None:
    reference = tiny_model(case)
    body = tiny_body(case, reference).requires_grad_(True)
    x, mask = torch.randn(N, T, D), mask_of(kind)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = body(with_positions(body, ours), mask), reference_forward(case, reference, theirs, mask)
    real = torch.ones(N, T, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)
    probe = torch.randn(int(real.sum()), D)
    (found[real] * probe).sum().backward()
    (expected[real] * probe).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    assert len(body.norms()) >= 4
    for name, norm in body.norms().items():
        for part, parameter in norm.named_parameters():
            wanted = reference.get_parameter(f"{name.removeprefix('model.')}.{part}").grad
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["none", "padded"])
@pytest.mark.parametrize("case", TINY)
def test_longer_than_the_table(case: str, kind: str) -> None:
    """Positions beyond the table repeat it from its start; families without a table just go on."""
    length = 2 * TABLE - 8
    config = tiny_config(case)
    longer: dict[str, Any] = {}
    if TINY[case][0] in VISION_FAMILIES:
        longer = {"image_size": 40}
    elif FAMILIES[config.model_type].positions is not None:
        longer = {"max_position_embeddings": config.max_position_embeddings + TABLE}
    reference = tiny_model(case, **longer)
    family = FAMILIES[config.model_type]
    state = reference.state_dict()
    if family.positions is not None:
        name = family.positions if family.positions in state else f"{family.positions}.weight"
        first, rows = family.first_position(config), family.max_length(config)
        assert rows is not None
        assert rows < length
        table = state[name].squeeze(0)
        table[first:] = table[first + torch.arange(len(table) - first) % rows]
        state[name] = state[name][..., : first + rows, :].clone()
    short = tiny_model(case)
    # buffers of the longer table's length stay the short model's own
    short.load_state_dict({k: v for k, v in state.items() if k in dict(short.named_parameters())}, strict=False)
    body = tiny_body(case, short)
    x, mask = torch.randn(N, length, D), mask_of(kind, length)
    with torch.no_grad():
        found, expected = body(with_positions(body, x), mask), reference_forward(case, reference, x, mask)
    real = torch.ones(N, length, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["none", "padded"])
@pytest.mark.parametrize("case", TINY)
def test_runs_packed_or_mixed_equal_each_alone(case: str, kind: str) -> None:
    body = tiny_body(case)
    gains = {name: 1 + 0.3 * torch.randn(R, len(norm.weight)) for name, norm in body.norms().items()}
    x, mask = torch.randn(R * N, T, D), mask_of(kind)
    tiled = None if mask is None else mask.repeat(R, 1)
    with torch.no_grad():
        alone = []
        for run, rows in enumerate(x.split(N)):
            own = {name: gains_of_runs[run : run + 1] for name, gains_of_runs in gains.items()}
            alone.append(body(rows, mask, body_pass=pass_with(body, own)))
        expected = torch.cat(alone)
        packed = body(x, tiled, body_pass=pass_with(body, gains))
        order = torch.randperm(R * N)
        mixed_pass = pass_with(body, gains, run_of_row=order // N)
        mixed = body(x[order], None if tiled is None else tiled[order], body_pass=mixed_pass)
    assert (expected[:N] - expected[N : 2 * N]).abs().max() > 0.1
    # padding holds whatever the family leaves there
    real = torch.ones(R * N, T, dtype=torch.bool) if tiled is None else tiled
    torch.testing.assert_close(packed[real], expected[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[real[order]], expected[order][real[order]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "padded"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("case", TINY)
def test_reading_some_positions_equals_reading_all(case: str, kind: str, count: int) -> None:
    body = tiny_body(case)
    mask, x = mask_of(kind), torch.randn(N, T, D)
    ends = torch.full((N,), T) if mask is None else mask.sum(1)
    positions = (ends - count)[:, None] + torch.arange(count)
    norms = [p.requires_grad_() for norm in body.norms().values() for p in norm.parameters()]
    inputs = [x.requires_grad_(), *norms]
    probe, results = torch.randn(N, count, D), []
    for read in (body, lambda x, mask, positions: gather(body(x, mask), positions)):
        out = read(x, mask, positions)
        results.append([out, *torch.autograd.grad(out, inputs, probe)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    # and the body is whole again
    assert body(x, mask).shape == (N, T, D)


@pytest.mark.parametrize("case", TINY)
def test_every_layer_has_its_activation_and_reads_less_in_the_last(case: str) -> None:
    body = tiny_body(case)
    # ReLU has no derivative to keep, and ESM's GELU is a function
    others = ("t5", "opt", "esm")
    assert sum(isinstance(module, Activation) for module in body.modules()) == (0 if case in others else 2)
    if case == "longformer":
        return
    rows: list[int] = []
    last = [module for module in body.modules() if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"]
    last[-1].register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].flatten(0, -2).shape[0]))
    body(torch.randn(N, T, D), None, torch.full((N, 1), T - 1))
    assert rows == [N]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("case", TINY)
def test_padding_is_never_seen(case: str) -> None:
    """Real positions depend neither on what padding holds nor on how much of it there is."""
    body, mask, x = tiny_body(case), mask_of("padded"), torch.randn(N, T, D)
    assert mask is not None
    noisy = torch.where(mask[..., None], x, 100 * torch.randn(N, T, D))
    with torch.no_grad():
        expected = body(x, mask)
        torch.testing.assert_close(body(noisy, mask)[mask], expected[mask], atol=1e-5, rtol=0)
        length = int(LENGTHS[2])
        torch.testing.assert_close(body(x[2:, :length])[0], expected[2, :length], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", ["none", "padded"])
@pytest.mark.parametrize("case", TINY)
def test_bf16_body_stays_close(case: str, kind: str) -> None:
    """As the model runs it: frozen weights and residual stream in bf16, norms in fp32."""
    body, x, mask = tiny_body(case), torch.randn(N, T, D), mask_of(kind)
    with torch.no_grad():
        expected = body(x, mask)
        norms = {id(p) for norm in body.norms().values() for p in norm.parameters()}
        for parameter in body.parameters():
            if id(parameter) not in norms:
                parameter.data = parameter.data.bfloat16()
        found = body(x.bfloat16(), mask)
    assert found.dtype == torch.bfloat16
    real = torch.ones(N, T, dtype=torch.bool) if mask is None else mask
    assert (found.float() - expected)[real].abs().mean() < 0.03 * expected[real].abs().mean()


@pytest.mark.parametrize("case", [case for case in TINY if not FAMILIES[TINY[case][0]].own_attention])
def test_recorded_maps_are_one_a_layer_and_hide_padding(case: str) -> None:
    body, mask = tiny_body(case), mask_of("padded")
    assert mask is not None
    record: list[Tensor] = []
    with torch.no_grad():
        body(torch.randn(N, T, D), mask, body_pass=BodyPass(record=record.append))
    maps = torch.stack(record)
    assert maps.shape == (body.info.layers, N, 4, T, T)
    torch.testing.assert_close(maps.sum(-1), torch.ones(body.info.layers, N, 4, T))
    seen_padding = maps.masked_fill(mask[None, :, None, None], 0).sum(-1)
    assert seen_padding.masked_select(mask[None, :, None]).max() == 0
    if body.info.causal:
        assert maps.triu(1).masked_select(mask[None, :, None, :, None]).max() == 0


def dropping(*row_keys: int) -> BodyPass:
    """A pass with dropout of these row keys."""
    return BodyPass(dropout=DropoutDraws(0.3, torch.tensor(row_keys), CounterCache()))


@pytest.mark.parametrize("case", TINY)
def test_dropout_reaches_every_family_and_follows_its_keys(case: str) -> None:
    body, x = tiny_body(case), torch.randn(N, T, D)
    with torch.no_grad():
        still = body(x)
        first, again = (body(x, body_pass=dropping(5, 6, 7)) for _ in range(2))
        last = body(x[2:], body_pass=dropping(7))
        assert torch.equal(body(x), still)
    assert torch.equal(first, again)
    assert not torch.allclose(first, still, atol=1e-2)
    torch.testing.assert_close(last, first[2:], atol=1e-5, rtol=0)


# on the embeddings, and in each of two layers: attention weights, attention's output, the feed-forward's output
@pytest.mark.parametrize(("case", "places"), [("bert", 7), ("gpt2", 7), ("vit", 6)])
def test_dropout_is_in_all_its_places_and_its_own_in_each(
    case: str, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, salts = tiny_body(case), []
    monkeypatch.setattr(
        dropout, "hashed_uniform", lambda keys, salt, c: salts.append(salt) or hashed_uniform(keys, salt, c)
    )
    body(torch.randn(N, T, D), body_pass=dropping(5, 6, 7))
    assert len(salts) == len(set(salts)) == places
