"""Quantiles of Student's t distribution, and the degrees of freedom of Welch's test, without SciPy.

The distribution function is the regularised incomplete beta function, computed by its continued fraction (Press et al.,
Numerical Recipes, Section 6.4), and its inverse is found by bisection.
"""

import functools
import math
import statistics
from collections.abc import Sequence

#: terms of the continued fraction, far more than it needs
_TERMS = 500
#: halvings of an interval, after which it is as small as the precision of its ends
_HALVINGS = 200
#: degrees of freedom beyond which the normal distribution is the same to seven digits
_NORMAL_FROM = 1e7
_TINY = 1e-300


def welch_degrees(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Effective degrees of freedom of a sum of independent variances (Welch 1947, Satterthwaite 1946).

    degrees  those of each variance

    Infinite if nothing varies or a variance is unknown (infinite).

    >>> welch_degrees([1.0, 1.0], [2, 2]), welch_degrees([0.0, 3.0], [0, 5])
    (4.0, 5.0)
    """
    total = sum(variances)
    if not 0 < total < math.inf:
        return math.inf
    inverse = sum((variance / total) ** 2 / n for variance, n in zip(variances, degrees, strict=True) if variance)
    return 1 / inverse if inverse else math.inf


@functools.lru_cache(maxsize=4096)
def student_t_quantile(probability: float, degrees: float) -> float:
    """The t below which a share `probability` (above a half) of the distribution lies; `degrees` may be infinite.

    >>> round(student_t_quantile(0.975, 2), 3), round(student_t_quantile(0.975, math.inf), 3)
    (4.303, 1.96)
    """
    if not (0.5 < probability < 1 and degrees > 0):
        raise ValueError(f"no quantile for probability {probability} and {degrees} degrees of freedom")
    if degrees >= _NORMAL_FROM:
        return statistics.NormalDist().inv_cdf(probability)
    low, high = 0.0, 1.0
    while _upper_tail(high, degrees) > 1 - probability:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _upper_tail(middle, degrees) > 1 - probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _upper_tail(t: float, degrees: float) -> float:
    """The share of the distribution above t >= 0."""
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x in (0.0, 1.0):
        return x
    # the fraction converges quickly on one side of the mean only; the other side follows by symmetry
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    factor = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(factor) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, _safe(1 - (a + b) * x / (a + 1))
    value = 1 / d
    d = 1 / d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _safe(1 + term * d), _safe(1 + term / c)
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return value


def _safe(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
