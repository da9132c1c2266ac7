"""The one attention function: every kind of mask and bias, both computation paths, recording."""

import math

import pytest
import torch
from torch import Tensor, nn

from icecore.backbones.modules import attention
from icecore.backbones.modules.body_pass import BodyPass, run_pass
from icecore.backbones.modules.dropout_draws import CounterCache, DropoutDraws

N, H, T, D = 2, 4, 6, 8
LENGTHS = torch.tensor([6, 3])


class Site(nn.Module):
    """What a transformers attention module is to the function."""

    def __init__(self, is_causal: bool = False) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.projection = nn.Linear(1, 1)
        assert attention.attach(self, first_salt=0) == 1


def inputs(kv_heads: int = H, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.randn(N, H, T, D)
    key, value = torch.randn(2, N, kv_heads, T, D).unbind()
    return query.to(dtype), key.to(dtype), value.to(dtype)


def allowed(kind: str) -> Tensor:
    """Which key (column) a query (row) may see: (N, 1, T, T) bool."""
    causal = torch.ones(T, T, dtype=torch.bool).tril().expand(N, 1, T, T)
    real = (torch.arange(T) < LENGTHS[:, None])[:, None, None].expand(N, 1, T, T)
    return {"full": torch.ones(N, 1, T, T, dtype=torch.bool), "causal": causal, "padded": real, "both": causal & real}[
        kind
    ]


def plain(query: Tensor, key: Tensor, value: Tensor, see: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Attention one head at a time in float64, masked keys left out: (N, T, H, d)."""
    query, key, value = query.double(), key.double(), value.double()
    out = torch.zeros(N, T, H, D, dtype=torch.float64)
    for n in range(N):
        for h in range(H):
            shared = h * key.shape[1] // H
            for t in range(T):
                seen = see[n, 0, t].nonzero().flatten()
                scores = key[n, shared, seen] @ query[n, h, t] * scale
                if bias is not None:
                    scores = scores + bias[0, h, t, seen].double()
                out[n, t, h] = scores.softmax(0) @ value[n, shared, seen]
    return out


@pytest.fixture(params=["explicit", "sdpa", "blocks"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to compute the same thing."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    monkeypatch.setattr(attention, "PLAIN_TYPES", () if request.param == "sdpa" else (torch.float32, torch.bfloat16))
    monkeypatch.setattr(attention, "EAGER_SCORES", 512 * 512 if request.param == "explicit" else 0)
    return request.param


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", ["full", "causal", "padded", "both"])
@pytest.mark.parametrize("kv_heads", [H, 2, 1])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", ["bool", "additive"])
def test_attention_agrees_with_the_formula(kind: str, kv_heads: int, biased: bool, form: str) -> None:
    query, key, value = inputs(kv_heads)
    bias = torch.randn(1, H, T, T) if biased else None
    mask = allowed(kind)
    if form == "additive":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    found, weights = attention.attend(Site(), query, key, value, mask, scaling=0.3, position_bias=bias)
    assert weights is None
    assert found.shape == (N, T, H, D)
    torch.testing.assert_close(found.double(), plain(query, key, value, allowed(kind), 0.3, bias), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("biased", [False, True])
def test_without_a_mask_the_module_or_the_argument_says_what_is_causal(biased: bool) -> None:
    query, key, value = inputs()
    scale, bias = 1 / math.sqrt(D), torch.randn(1, H, T, T) if biased else None
    expected = {kind: plain(query, key, value, allowed(kind), scale, bias) for kind in ("full", "causal")}
    for module_says in (False, True):
        for argument in (None, False, True):
            causal = module_says if argument is None else argument
            found, _ = attention.attend(
                Site(is_causal=module_says), query, key, value, None, is_causal=argument, position_bias=bias
            )
            wanted = expected["causal" if causal else "full"]
            torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["full", "causal", "padded", "both"])
@pytest.mark.parametrize("biased", [False, True])
def test_paths_agree_in_value_and_gradient(kind: str, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    query, key, value = parts = [x.requires_grad_() for x in inputs(kv_heads=2)]
    bias = torch.randn(1, H, T, T) if biased else None
    mask = None if kind in ("full", "causal") else allowed(kind)
    probe, results = torch.randn(N, T, H, D), []
    for limit, types in ((512 * 512, (torch.float32,)), (0, (torch.float32,)), (0, ())):
        monkeypatch.setattr(attention, "EAGER_SCORES", limit)
        monkeypatch.setattr(attention, "PLAIN_TYPES", types)
        site = Site(is_causal=kind == "causal")
        out, _ = attention.attend(site, query, key, value, mask, position_bias=bias)
        results.append([out, *torch.autograd.grad(out, parts, probe)])
    for explicit, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(explicit, other, atol=1e-5, rtol=1e-5)


def test_blocks_leave_learnt_position_bias_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "EAGER_SCORES", 0)
    monkeypatch.setattr(attention, "PLAIN_TYPES", (torch.float32,))
    bias = torch.randn(1, H, T, T, requires_grad=True)
    out, _ = attention.attend(Site(), *inputs(), None, position_bias=bias)
    out.square().sum().backward()
    assert bias.grad is not None
    assert bias.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["full", "causal", "padded", "both"])
def test_recorded_weights_are_distributions_over_what_may_be_seen(kind: str, path: str) -> None:
    record: list[Tensor] = []
    query, key, value = inputs()
    with run_pass(BodyPass(record=record.append)):
        out, _ = attention.attend(Site(), query, key, value, allowed(kind))
    (weights,) = record
    assert weights.shape == (N, H, T, T)
    torch.testing.assert_close(weights.sum(-1), torch.ones(N, H, T))
    assert weights.masked_select(~allowed(kind)).sum() == 0
    # recording looks on: the result is the one without it, on either path
    silent, _ = attention.attend(Site(), query, key, value, allowed(kind))
    torch.testing.assert_close(out, silent, atol=1e-5, rtol=0)
    torch.testing.assert_close((weights @ value).transpose(1, 2), out, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("path")
def test_rows_that_may_see_nothing_stay_finite() -> None:
    query, key, value = inputs()
    mask = allowed("full").clone()
    mask[1] = False
    found, _ = attention.attend(Site(), query, key, value, mask)
    assert found.isfinite().all()
    expected = plain(query, key, value, allowed("full"), D**-0.5)
    torch.testing.assert_close(found[0].double(), expected[0], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", ["full", "causal", "padded", "both"])
@pytest.mark.parametrize("size", [1.0, 1e36])
def test_bf16_is_finite_and_close(kind: str, size: float) -> None:
    query, key, value = inputs(dtype=torch.bfloat16)
    # a bias shifts the lowest number that masking adds: their sum must not become minus infinity
    bias = torch.full((1, H, T, T), -size, dtype=torch.bfloat16)
    found, _ = attention.attend(Site(), query, key, value, allowed(kind), position_bias=bias)
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()
    if size == 1.0:
        expected = plain(query, key, value, allowed(kind), D**-0.5)
        torch.testing.assert_close(found.double(), expected, atol=0.05, rtol=0)


@pytest.mark.usefixtures("path")
def test_dropout_drops_weights_by_row_key_only() -> None:
    query, key, _ = inputs()
    value = torch.eye(T, D).expand(N, H, T, D)
    site = Site()

    def dropping(*row_keys: int) -> BodyPass:
        return BodyPass(dropout=DropoutDraws(0.5, torch.tensor(row_keys), CounterCache()))

    kept, _ = attention.attend(site, query, key, value, allowed("full"))
    with run_pass(dropping(7, 8)):
        dropped, _ = attention.attend(site, query, key, value, allowed("full"))
    ratio = (dropped / kept)[..., :T]
    near_zero_or_two = ((ratio - 2).abs() < 1e-4) | (ratio == 0)
    assert near_zero_or_two.all()
    assert 0.3 < (ratio == 0).float().mean() < 0.7
    with run_pass(dropping(8, 7)):
        swapped, _ = attention.attend(site, query.flip(0), key.flip(0), value, allowed("full"))
    torch.testing.assert_close(swapped.flip(0), dropped)


def test_sites_stay_out_of_the_module_tree() -> None:
    site = Site()
    assert [name for name, _ in site.named_modules()] == ["", "projection"]
    assert set(site.state_dict()) == {"projection.weight", "projection.bias"}
