"""Dropout as a pure function of seed, step, row, place and element, with honest statistics."""

import math

import pytest
import torch
from torch import Tensor

from icecore.backbones.modules.body_pass import BodyPass, run_pass
from icecore.backbones.modules.dropout import RunDropout
from icecore.backbones.modules.dropout_draws import CounterCache, DropoutDraws, element_counters, hashed_uniform


def dropping(rate: float, row_keys: Tensor) -> BodyPass:
    """A pass with dropout at this rate."""
    return BodyPass(dropout=DropoutDraws(rate, row_keys, CounterCache()))


def drop(x: Tensor, row_keys: Tensor, rate: float, salt: int = 0) -> Tensor:
    """`x` after one dropout of a pass."""
    with run_pass(dropping(rate, row_keys)):
        return RunDropout(salt)(x)


def dropped(keys: Tensor, shape: tuple[int, ...], p: float = 0.25, salt: int = 0) -> Tensor:
    return drop(torch.ones(len(keys), *shape), keys, p, salt)


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
    counters_of, device = CounterCache(), torch.device("cpu")
    for T in (9, 5, 7, 12, 3, 12):
        for shape in ((T, 8), (4, T, T), (2, 8), (T, 16)):
            assert torch.equal(counters_of(shape, device), element_counters(shape, device))
    sizes = [counters.numel() for _, counters in counters_of._counters.values()]
    assert sorted(sizes) == sorted([12 * 8, 12 * 16, 4 * 12 * 12])


def test_a_dropout_in_two_places_of_one_pass_draws_twice() -> None:
    body_pass, x = dropping(0.5, torch.arange(3)), torch.ones(3, 6, 8)
    shared = RunDropout(0)
    with run_pass(body_pass):
        first, second = shared(x), shared(x)
    assert not torch.equal(first, second)
    with run_pass(body_pass):
        assert torch.equal(shared(x), first)
        assert torch.equal(shared(x), second)


def test_element_counters_tell_all_elements_apart() -> None:
    for shape in [(300, 64), (12, 80, 80)]:
        counters = element_counters(shape, torch.device("cpu"))
        assert len(counters.unique()) == math.prod(shape)


def test_dropout_is_inactive_without_draws_or_rate() -> None:
    x, dropout = torch.randn(2, 3, 4), RunDropout(0)
    assert dropout(x) is x
    with run_pass(BodyPass()):
        assert dropout(x) is x
    with run_pass(dropping(0.0, torch.arange(2))):
        assert dropout(x) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_the_rate(p: float, dtype: torch.dtype) -> None:
    out = drop(torch.ones(64, 50, 100, dtype=dtype), torch.arange(64), p, salt=3)
    kept = (out != 0).float()
    # five standard errors of a binomial share
    assert abs(kept.mean().item() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / kept.numel())
    torch.testing.assert_close(out[out != 0].unique().float(), torch.tensor([1 / (1 - p)]), atol=0, rtol=2.0**-8)
    shares = kept.flatten(1).mean(1)
    assert (shares - (1 - p)).abs().max() < 5 * math.sqrt(p * (1 - p) / kept[0].numel())


def test_dropout_gradient_is_its_own_mask() -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    out = drop(x, torch.arange(3), 0.5)
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
    draws = hashed_uniform(keys, 9, counters)
    expected = [[scalar(k, 9, c) for c in counters.tolist()] for k in keys.tolist()]
    assert torch.equal(draws, torch.tensor(expected))
