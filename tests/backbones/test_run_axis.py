"""The run-axis norm against torch, and dropout as a pure function with honest statistics."""

import math

import pytest
import torch
from icecore.backbones.modules.run_axis import NormKind, RunAxis, RunDropout, RunNorm, element_counters, hashed_uniform
from torch import Tensor
from torch.nn import functional as F

from icecore.backbones.modules import run_axis as fast

D, T, B, R = 6, 4, 2, 3
EPS = 1e-3
NORMS = [("layer", True), ("layer", False), ("rms", True), ("rms", False)]


def make_norm(kind: NormKind, biased: bool, axis: RunAxis, runs: int = 1) -> RunNorm:
    norm = RunNorm(kind, torch.randn(D), torch.randn(D) if biased else None, EPS, axis)
    norm.weight.data = torch.randn(runs, D)
    if norm.bias is not None:
        norm.bias.data = torch.randn(runs, D)
    return norm


def plain_norm(norm: RunNorm, x: Tensor, run: int = 0) -> Tensor:
    """The formula, written out."""
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    out = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight[run]
    return out if norm.bias is None else out + norm.bias[run]


@pytest.mark.parametrize(("kind", "biased"), NORMS)
@pytest.mark.parametrize("shape", [(B, D), (B, T, D), (B, T, 2, D)])
def test_norm_agrees_with_its_formula_and_its_gradients(kind: NormKind, biased: bool, shape: tuple[int, ...]) -> None:
    norm = make_norm(kind, biased, RunAxis())
    x = torch.randn(shape, requires_grad=True)
    found, expected = norm(x), plain_norm(norm, x)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    probe, parameters = torch.randn(shape), [x, *norm.parameters()]
    grads = zip(
        torch.autograd.grad(found, parameters, probe), torch.autograd.grad(expected, parameters, probe), strict=True
    )
    for ours, theirs in grads:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "biased"), NORMS)
@pytest.mark.parametrize("runs", [1, R])
def test_norm_in_bf16_rounds_only_its_result(kind: NormKind, biased: bool, runs: int) -> None:
    norm = make_norm(kind, biased, RunAxis(), runs)
    x = torch.randn(runs * B, T, D, dtype=torch.bfloat16)
    expected = torch.cat([plain_norm(norm, part.float(), r) for r, part in enumerate(x.split(B))])
    assert norm(x).dtype == torch.bfloat16
    # one unit in the last place of eight bits
    torch.testing.assert_close(norm(x).float(), expected, atol=1e-6, rtol=2.0**-8)
    norm(x).float().sum().backward()
    assert norm.weight.grad is not None
    assert norm.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("kind", "biased"), NORMS)
def test_norm_run_major_and_mixed_rows_equal_each_run_alone(kind: NormKind, biased: bool) -> None:
    axis = RunAxis()
    norm = make_norm(kind, biased, axis, R)
    x = torch.randn(R * B, T, D)
    alone = [plain_norm(norm, part, r) for r, part in enumerate(x.split(B))]
    torch.testing.assert_close(norm(x), torch.cat(alone), atol=1e-6, rtol=1e-5)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    axis.run_of_row = order // B
    torch.testing.assert_close(norm(x[order]), torch.cat(alone)[order], atol=1e-6, rtol=1e-5)


def test_norm_gives_each_run_only_its_own_gradient() -> None:
    norm = make_norm("layer", True, RunAxis(), R)
    loss = norm(torch.randn(R * B, T, D)).square().view(R, -1).sum(1)
    loss[1].backward()
    for parameter in norm.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().min() > 0
        assert torch.equal(parameter.grad[[0, 2]], torch.zeros(2, D))


def test_spread_shapes_values_for_rows_of_any_rank() -> None:
    values, rows = torch.randn(R, D), torch.zeros(R * B, T, D)
    spread = RunAxis().spread(values, rows)
    assert spread.shape == (R * B, 1, D)
    assert torch.equal(spread[:, 0], values.repeat_interleave(B, 0))
    mixed = RunAxis(run_of_row=torch.tensor([2, 0, 1, 1, 0, 2])).spread(values, rows[:, 0])
    assert torch.equal(mixed, values[[2, 0, 1, 1, 0, 2]])
    assert RunAxis().spread(values[:1], rows).shape == (1, 1, D)


def dropped(keys: Tensor, shape: tuple[int, ...], p: float = 0.25, salt: int = 0) -> Tensor:
    axis = RunAxis(dropout=p, row_keys=keys)
    return RunDropout(salt, axis)(torch.ones(len(keys), *shape))


def test_dropout_is_a_pure_function_of_key_place_and_element() -> None:
    keys, shape = torch.arange(10, 18), (3, 5)
    whole = dropped(keys, shape)
    order = torch.randperm(len(keys))
    torch.manual_seed(99)
    assert torch.equal(dropped(keys[order], shape), whole[order])
    assert torch.equal(torch.cat([dropped(part, shape) for part in keys.split(3)]), whole)
    assert not torch.equal(dropped(keys, shape, salt=1), whole)
    assert not torch.equal(dropped(keys + 1, shape), whole)


@pytest.mark.parametrize(
    ("short", "long"), [((5, 8), (9, 8)), ((4, 5, 5), (4, 9, 9))], ids=["positions", "attention scores"]
)
def test_dropout_does_not_depend_on_the_longest_row_of_the_batch(short: tuple[int, ...], long: tuple[int, ...]) -> None:
    """A row meets the same draws alone and beside longer rows of other runs."""
    keys = torch.arange(4)
    window = tuple(slice(size) for size in short)
    assert torch.equal(dropped(keys, long)[(slice(None), *window)], dropped(keys, short))


def test_counters_of_few_shapes_are_kept_and_cut_to_the_same_draws() -> None:
    axis, device = RunAxis(), torch.device("cpu")
    for T in (9, 5, 7, 12, 3, 12):
        for shape in ((T, 8), (4, T, T), (2, 8), (T, 16)):
            assert torch.equal(axis.counters(shape, device), element_counters(shape, device))
    held = [counters.numel() for _, counters in axis._counters.values()]
    assert sorted(held) == sorted([12 * 8, 12 * 16, 4 * 12 * 12])


def test_a_dropout_in_two_places_of_one_pass_draws_twice() -> None:
    axis, keys, x = RunAxis(dropout=0.5), torch.arange(3), torch.ones(3, 6, 8)
    shared = RunDropout(0, axis)
    axis.begin(None, keys)
    first, second = shared(x), shared(x)
    assert not torch.equal(first, second)
    axis.begin(None, keys)
    assert torch.equal(shared(x), first)
    assert torch.equal(shared(x), second)


def test_element_counters_tell_all_elements_apart() -> None:
    for shape in [(300, 64), (12, 80, 80)]:
        counters = element_counters(shape, torch.device("cpu"))
        assert len(counters.unique()) == math.prod(shape)


def test_dropout_is_inactive_without_keys_or_rate() -> None:
    x = torch.randn(2, 3, 4)
    assert RunDropout(0, RunAxis(dropout=0.5))(x) is x
    assert RunDropout(0, RunAxis(row_keys=torch.arange(2)))(x) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_the_rate(p: float, dtype: torch.dtype) -> None:
    axis = RunAxis(dropout=p, row_keys=torch.arange(64))
    out = RunDropout(3, axis)(torch.ones(64, 50, 100, dtype=dtype))
    kept = (out != 0).float()
    # five standard errors of a binomial share
    assert abs(kept.mean().item() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / kept.numel())
    torch.testing.assert_close(out[out != 0].unique().float(), torch.tensor([1 / (1 - p)]), atol=0, rtol=2.0**-8)
    shares = kept.flatten(1).mean(1)
    assert (shares - (1 - p)).abs().max() < 5 * math.sqrt(p * (1 - p) / kept[0].numel())


def test_dropout_gradient_is_its_own_mask() -> None:
    axis = RunAxis(dropout=0.5, row_keys=torch.arange(3))
    x = torch.randn(3, 4, 5, requires_grad=True)
    out = RunDropout(0, axis)(x)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(out, x * x.grad)


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()


@pytest.mark.parametrize("stride", [1, 2, 64, 2**20, 0x9E3779B1])
def test_draws_of_neighbouring_rows_salts_and_elements_are_uncorrelated(stride: int) -> None:
    keys, counters = torch.arange(40) * stride, element_counters((50, 80), torch.device("cpu"))
    draws = hashed_uniform(keys, 5, counters)
    bound = 5 / math.sqrt(draws[1:].numel())
    assert abs(correlation(draws[1:], draws[:-1])) < bound, "rows"
    assert abs(correlation(draws[:, 1:], draws[:, :-1])) < bound, "elements"
    assert abs(correlation(draws, hashed_uniform(keys, 6, counters))) < bound, "salts"
    assert abs(correlation(draws, hashed_uniform(keys + 1, 5, counters))) < bound, "steps"
    # two-by-two table of joint drops at a small rate: correlation alone would miss it
    both = ((draws[1:] < 0.1) & (draws[:-1] < 0.1)).float()
    assert abs(both.mean().item() - 0.01) < 5 * math.sqrt(0.01 * 0.99 / both.numel())


def test_draws_are_uniform() -> None:
    draws = hashed_uniform(torch.arange(100), 0, element_counters((20, 100), torch.device("cpu")))
    assert draws.min() >= 0
    assert draws.max() < 1
    bins = torch.histc(draws, 64, 0, 1)
    expected = draws.numel() / 64
    chi_square = ((bins - expected) ** 2 / expected).sum().item()
    # 63 degrees of freedom: mean 63, standard deviation sqrt(126)
    assert abs(chi_square - 63) < 5 * math.sqrt(126)


def test_keys_beyond_32_bits_still_differ() -> None:
    counters = element_counters((4, 8), torch.device("cpu"))
    keys = torch.tensor([2**62, 2**62 + 1, -1])
    draws = hashed_uniform(keys, 0, counters)
    assert len(draws[:, 0].unique()) == 3
    assert torch.isfinite(draws).all()


def test_lowbias32_by_python_integers() -> None:
    """The same hash in unbounded integers: no sign or overflow slip."""

    def scalar(key: int, salt: int, counter: int) -> float:
        h = (counter ^ (key * 0x9E3779B1 + salt * 0x85EBCA77)) & 0xFFFFFFFF
        h = (h ^ h >> 16) * 0x21F0AAAD & 0xFFFFFFFF
        h = (h ^ h >> 15) * 0x735A2D97 & 0xFFFFFFFF
        return ((h ^ h >> 15) & 0xFFFFFF) / 2**24

    counters = element_counters((3, 7), torch.device("cpu"))
    keys = torch.tensor([0, 1, 12345678901])
    found = hashed_uniform(keys, 9, counters)
    expected = [[scalar(k, 9, c) for c in counters.tolist()] for k in keys.tolist()]
    assert torch.equal(found, torch.tensor(expected))


def test_norm_kinds_are_all_covered() -> None:
    assert {kind for kind, _ in NORMS} == set(fast.NormKind.__args__)
    x = torch.randn(2, D)
    norm = make_norm("layer", True, RunAxis())
    assert norm.bias is not None
    torch.testing.assert_close(norm(x), F.layer_norm(x, (D,), norm.weight[0], norm.bias[0], EPS))
