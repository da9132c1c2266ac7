"""Exponential smoothing (ETS, Hyndman et al. 2008) as a control of forecasts, by statsmodels.

The form is chosen by AICc and its parameters are estimated on the training part of each series; at every origin the
series up to there is smoothed with them. Needs the extra `forecast`.
"""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icecore.user_data.forecast_windows import ForecastPlan, Series, Windows, training_end

#: with more series or points, or longer seasons, the estimates would take longer than the forecast is worth
MAX_ETS_SERIES, MAX_ETS_POINTS, MAX_ETS_SEASON = 10, 2_000, 60
TRENDS: Sequence[Mapping[str, Any]] = ({}, {"trend": "add"}, {"trend": "add", "damped_trend": True})


def ets_gains(plan: ForecastPlan, series: Sequence[Series], shown: Windows) -> np.ndarray | None:
    """What ETS forecasts for windows: the difference from the naive forecast in spreads (N, H).

    None without statsmodels, and for series that are too many, too long or without values in their training part.
    """
    is_large = len(series) > MAX_ETS_SERIES or max(len(each.times) for each in series) > MAX_ETS_POINTS
    if is_large or plan.season > MAX_ETS_SEASON:
        return None
    try:
        ets = importlib.import_module("statsmodels.tsa.exponential_smoothing.ets")
    except ImportError:
        return None
    forecasts = np.empty_like(shown.naive)
    for index, each in enumerate(series):
        values = each.values[:, 0]
        known = _without_gaps(values[: training_end(len(values), plan)])
        rows = np.flatnonzero(shown.series == index)
        if known is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a control that has not converged is still a control
            form, parameters = _choose(ets.ETSModel, known, plan.season)
            for row in rows.tolist():
                # gaps are filled from what is known at the origin, never from values after it
                past = _without_gaps(values[: shown.origin[row]])
                assert past is not None  # it contains the training part
                forecasts[row] = ets.ETSModel(past, **form).smooth(parameters).forecast(plan.horizon)
    return (forecasts - shown.naive) / shown.spread[:, None]


def _choose(model: Any, values: np.ndarray, season: int) -> tuple[Mapping[str, Any], np.ndarray]:
    """The form with the lowest AICc on the values (T,), and its parameters."""
    seasons: list[Mapping[str, Any]] = [{"error": "add"}]
    if 1 < season <= len(values) // 2:
        # a season that grows with the level needs positive values, and goes with errors that do
        kinds = ("add", "mul") if values.min() > 0 else ("add",)
        seasons += [{"error": kind, "seasonal": kind, "seasonal_periods": season} for kind in kinds]
    forms = [{**trend, **seasonal} for trend in TRENDS for seasonal in seasons]
    fitted = [(form, model(values, **form).fit(disp=False)) for form in forms]
    # few points give no AICc, and then the simplest form is taken
    form, best = min(fitted, key=lambda pair: pair[1].aicc if np.isfinite(pair[1].aicc) else np.inf)
    return form, best.params


def _without_gaps(values: np.ndarray) -> np.ndarray | None:
    """The values (T,) with missing ones interpolated; None if there are none."""
    is_known = np.isfinite(values)
    if not is_known.any():
        return None
    places = np.arange(len(values))
    return np.interp(places, places[is_known], values[is_known])
