"""Quantiles of Student's t distribution and degrees of freedom equal those of tables and of SciPy."""

import math
import statistics

import pytest

from icecore.core.student_t import student_t_quantile, welch_degrees


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [
        (0.975, 1, 12.7062047),
        (0.975, 2, 4.3026527),
        (0.975, 4, 2.7764451),
        (0.975, 30, 2.0422725),
        (0.8, 1, 1.3763819),
        (0.8, 2, 1.0606602),
        (0.8, 4, 0.9409646),
        (0.975, 1e8, 1.9599640),
        (0.975, math.inf, 1.9599640),
        (0.8, math.inf, 0.8416212),
    ],
)
def test_known_quantiles(probability: float, degrees: float, quantile: float) -> None:
    assert student_t_quantile(probability, degrees) == pytest.approx(quantile, rel=1e-7)


def test_quantiles_equal_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (0.5, 1.3, 2.7, 3.9, 11.0, 123.4, 5e4):
        for probability in (0.51, 0.8, 0.95, 0.975, 0.9995):
            expected = stats.t.ppf(probability, degrees)
            assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("probability", "degrees"), [(0.5, 3), (1.0, 3), (0.9, 0.0)])
def test_what_has_no_quantile_is_refused(probability: float, degrees: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        student_t_quantile(probability, degrees)


def test_degrees_of_freedom_equal_those_of_welchs_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = [1.0, 2.5, 4.0, 3.5], [2.0, 8.0, 5.5, 9.0, 1.0, 7.0]
    variances = [statistics.variance(sample) / len(sample) for sample in (first, second)]
    expected = stats.ttest_ind(first, second, equal_var=False).df
    assert welch_degrees(variances, [3, 5]) == pytest.approx(expected)


@pytest.mark.parametrize(("variances", "degrees"), [([0.0, 0.0], [2, 2]), ([math.inf], [0]), ([1.0], [math.inf])])
def test_degrees_are_infinite_where_nothing_varies_or_is_known(variances: list[float], degrees: list[float]) -> None:
    assert welch_degrees(variances, degrees) == math.inf
