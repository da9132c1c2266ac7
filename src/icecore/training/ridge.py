"""Ridge regression with its leave-one-out errors for many penalties at once, in closed form.

One eigendecomposition gives the solution for every penalty, and the error of each row if it were left out follows from
the diagonal of the hat matrix (Allen 1974; Hastie et al. 2009, equation 7.52), so no row has to be held out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

#: penalties to choose from, relative to the mean eigenvalue of the features' covariance
PENALTIES = torch.logspace(-8, 3, 34, dtype=torch.float64)
#: rows whose numbers are squared at once, to save memory
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class RidgeSolution:
    """The solution with the lowest leave-one-out error.

    weight, bias  (F, K), (K,)
    leave_one_out (N, K) prediction of each row by the solution on all other rows
    error         weighted mean over rows of the squared errors of `leave_one_out`
    penalty       the penalty chosen, relative to the mean eigenvalue
    """

    weight: Tensor
    bias: Tensor
    leave_one_out: Tensor
    error: float
    penalty: float


@torch.no_grad()
def solve_ridge(features: Tensor, values: Tensor, weights: Tensor) -> RidgeSolution:
    """Fit values (N, K) linearly to features (N, F), given the weight (N,) of each row; all in float64.

    The intercept is not penalised.
    """
    N, width = features.shape
    shares = weights / weights.sum()
    mean, centre = shares @ features, shares @ values
    root = (weights / weights.mean()).sqrt()[:, None]
    # in these coordinates the problem has no weights and no intercept, except for what the intercept adds to the hat
    X, Y = (features - mean).mul_(root), (values - centre) * root
    if width < N:
        eigenvalues, vectors = torch.linalg.eigh(X.T @ X)
        rotated = X @ vectors  # (N, k)
        basis = vectors
        del X  # which may be gigabytes
    else:
        eigenvalues, left = torch.linalg.eigh(X @ X.T)
        kept = eigenvalues > eigenvalues[-1] * 1e-13
        eigenvalues, left = eigenvalues[kept], left[:, kept]
        rotated = left * eigenvalues.sqrt()
        basis = X.T @ (left / eigenvalues.sqrt())
    eigenvalues = eigenvalues.clamp(min=0)
    penalties = PENALTIES.to(features.device) * eigenvalues.sum() / max(1, min(N, width)) + 1e-30  # (L,)
    inverse = 1 / (eigenvalues[:, None] + penalties)  # (k, L)
    # the intercept has its share of each row's influence
    squares = torch.cat([rows.square() @ inverse for rows in rotated.split(ROWS_AT_ONCE)])
    hat = (squares + shares[:, None]).clamp(max=1 - 1e-9)  # (N, L)
    projected = rotated.T @ Y  # (k, K)
    best: tuple[float, int, Tensor] | None = None
    for number in range(len(penalties)):
        residuals = (Y - rotated @ (inverse[:, number, None] * projected)) / (1 - hat[:, number, None])
        error = float(residuals.square().sum(1).mean())
        if best is None or error < best[0]:
            best = error, number, residuals
    assert best is not None
    error, number, residuals = best
    weight = basis @ (inverse[:, number, None] * projected)
    return RidgeSolution(
        weight, centre - mean @ weight, values - residuals / root.clamp(min=1e-12), error, float(PENALTIES[number])
    )
