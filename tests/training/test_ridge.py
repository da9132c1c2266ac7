"""Ridge regression in closed form: against scikit-learn, and leave-one-out predictions against leaving rows out."""

import numpy as np
import pytest
import torch

from icecore.training import ridge
from icecore.training.ridge import solve_ridge

linear_model = pytest.importorskip("sklearn.linear_model")


def problem(rows: int, features: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random features (N, F), values (N, 2) that depend on them, and weights (N,)."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, features, generator=generator, dtype=torch.float64) + 3
    y = x[:, :2] @ torch.tensor([[1.0, 0.5], [-2.0, 1.0]], dtype=torch.float64) + 5
    noise = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return x, y + noise, torch.rand(rows, generator=generator, dtype=torch.float64) + 0.1


@pytest.mark.parametrize(("rows", "features"), [(40, 5), (12, 30)])
def test_the_solution_is_scikit_learns(rows: int, features: int) -> None:
    x, y, weights = problem(rows, features)
    found = solve_ridge(x, y, weights)
    shares = weights / weights.mean()
    centred = (x - weights @ x / weights.sum()) * shares.sqrt()[:, None]
    penalty = found.penalty * float(centred.square().sum()) / min(rows, features)
    expected = linear_model.Ridge(alpha=penalty).fit(x.numpy(), y.numpy(), sample_weight=shares.numpy())
    np.testing.assert_allclose(found.weight.numpy(), expected.coef_.T, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.bias.numpy(), expected.intercept_, rtol=1e-5)


@pytest.mark.parametrize(("rows", "features"), [(25, 4), (10, 20)])
@pytest.mark.parametrize("penalty", [1e-3, 0.3, 30.0])
def test_left_out_predictions_are_those_without_the_row(
    rows: int, features: int, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge, "PENALTIES", torch.tensor([penalty], dtype=torch.float64))
    x, y, weights = problem(rows, features)
    found = solve_ridge(x, y, weights)
    shares = weights / weights.mean()
    centred = (x - weights @ x / weights.sum()) * shares.sqrt()[:, None]
    absolute = penalty * float(centred.square().sum()) / min(rows, features)
    for row in range(rows):
        rest = [other for other in range(rows) if other != row]
        model = linear_model.Ridge(alpha=absolute).fit(x[rest].numpy(), y[rest].numpy(), shares[rest].numpy())
        np.testing.assert_allclose(found.leave_one_out[row].numpy(), model.predict(x[[row]].numpy())[0], rtol=1e-6)


def test_the_penalty_with_the_lowest_left_out_error_is_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 40, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    signal = solve_ridge(x, x[:, :1] + 0.01 * noise, torch.ones(60, dtype=torch.float64))
    nothing = solve_ridge(x, noise, torch.ones(60, dtype=torch.float64))
    assert signal.penalty < 1e-2 < 1 < nothing.penalty
    assert signal.error < 0.01
    assert nothing.error == pytest.approx(float(noise.var()), rel=0.1)


def test_constant_features_say_nothing_but_the_mean() -> None:
    found = solve_ridge(
        torch.ones(6, 3, dtype=torch.float64), torch.arange(6.0).double()[:, None], torch.ones(6).double()
    )
    torch.testing.assert_close(found.bias + torch.ones(3).double() @ found.weight, torch.tensor([2.5]).double())
    assert np.isfinite(found.error)
