"""Forecasts from a program's outputs: values with a range, and how good they were on the latest origins.

Measures: MASE (Hyndman and Koehler 2006), the error relative to that of the seasonal naive forecast within the training
part; sMAPE in per cent; and a CRPS from the quantiles 0.1, 0.5 and 0.9, relative like MASE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from torch import Tensor

from icecore.autofit.exponential_smoothing import ets_gains
from icecore.user_data import DataEncoder, EncodedRows
from icecore.user_data.forecast_windows import ForecastPlan, Series, Windows, training_end
from icecore.user_data.notes import Note

#: the quantiles of the range that is shown
QUANTILES = (0.1, 0.9)
#: strength of the ridge penalty of the linear control, relative to the number of windows
RIDGE_PENALTY = 0.1


@dataclass(frozen=True)
class SeriesForecast:
    """The forecast of one series, for a plot.

    times, values            (T,) what is known
    next_times               (H,) times of the forecast
    forecast, low, high      (H,) its values and their range
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    next_times: np.ndarray
    forecast: np.ndarray
    low: np.ndarray
    high: np.ndarray
    has_dates: bool


@dataclass(frozen=True)
class Measures:
    """How good forecasts were on the test origins; None for CRPS without a range."""

    mase: float
    smape: float
    crps: float | None = None


def decode_forecast(
    encoder: DataEncoder, rows: EncodedRows, logits: Tensor
) -> tuple[list[SeriesForecast], Mapping[str, Measures]]:
    """The forecasts of all series and the measures of the program and its controls, from logits (N, 1, H)."""
    plan, windows = encoder.forecast, rows.windows
    assert plan is not None
    assert windows is not None
    shown = windows.select(windows.splits != "train")
    gains = np.stack(encoder.target.predict(logits), 1)
    errors = shown.gains - gains  # nan for what is not known yet
    measures = _measure(plan, rows.series, windows, shown, gains, errors)
    ranges = _quantiles(errors[shown.splits != "next"], plan.horizon)
    forecasts: list[SeriesForecast] = []
    for row in np.flatnonzero(shown.splits == "next").tolist():
        series = rows.series[int(shown.series[row])]
        spread = shown.spread[row]
        values = shown.naive[row] + spread * gains[row]
        low, high = (values + spread * quantile for quantile in ranges)
        times = next_times(series.times, plan)
        known = series.values[:, 0]
        forecasts.append(SeriesForecast(series.name, series.times, known, times, values, low, high, plan.has_dates))
    return forecasts, measures


def _quantiles(errors: np.ndarray, horizon: int) -> np.ndarray:
    """What lies below and above the forecast (2, H), by the size of errors (n, H) of each step; 0 if none are known.

    Errors on both sides count alike, because neighbouring origins err on the same side.
    """
    if not np.isfinite(errors).all(1).any():
        return np.zeros((len(QUANTILES), horizon))
    size = np.nanquantile(np.abs(errors), QUANTILES[1] - QUANTILES[0], axis=0)
    return np.stack([-size, size])


def next_times(times: np.ndarray, plan: ForecastPlan) -> np.ndarray:
    """The times (H,) after the last one: calendar months if the times (T,) are such, otherwise equal steps."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    if plan.has_dates and abs(step - 30.4 * 86_400) < 4 * 86_400:
        last = datetime.fromtimestamp(times[-1], UTC)
        first_days = [(last.month - 1 + h) for h in range(1, plan.horizon + 1)]
        return np.array([_in_month(last, last.year + m // 12, m % 12 + 1).timestamp() for m in first_days])
    return times[-1] + step * np.arange(1, plan.horizon + 1)


def _in_month(moment: datetime, year: int, month: int) -> datetime:
    """The moment in another month, on its last day if it has no such day, or if the moment is on a last day."""
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    days = (following - datetime(year, month, 1, tzinfo=UTC)).days
    return moment.replace(year=year, month=month, day=min(moment.day, days))


def time_texts(times: np.ndarray, has_dates: bool) -> list[str]:
    """Times as people write them."""
    if not has_dates:
        return [f"{time:g}" for time in times]
    moments = [datetime.fromtimestamp(time, UTC) for time in times]
    whole = all(moment.time().isoformat() == "00:00:00" for moment in moments)
    return [moment.date().isoformat() if whole else moment.replace(tzinfo=None).isoformat(" ") for moment in moments]


def _measure(
    plan: ForecastPlan,
    series: Sequence[Series],
    windows: Windows,
    shown: Windows,
    gains: np.ndarray,
    errors: np.ndarray,
) -> dict[str, Measures]:
    """The measures on the test origins of the program, the seasonal naive forecast, a linear model and ETS."""
    test, val = shown.splits == "test", shown.splits == "val"
    if not test.any():
        return {}
    scales = np.array([naive_error(each, plan) for each in series])[shown.series[test]]
    future, naive, spread = shown.future[test], shown.naive[test], shown.spread[test][:, None]
    zeros = np.zeros_like(gains)
    linear = _fit_linear(windows, shown, plan)
    results: dict[str, Measures] = {}
    ets = ets_gains(plan, series, shown)
    for name, own in (("program", gains), ("seasonal naive", zeros), ("linear model", linear), ("ETS", ets)):
        if own is None:
            continue
        forecast = naive + spread * own[test]
        quantiles = _quantiles((shown.gains - own)[val], plan.horizon) if val.any() else None
        crps = None
        if quantiles is not None:
            parts = [
                _pinball(future, forecast + spread * q, level) for level, q in zip(QUANTILES, quantiles, strict=True)
            ]
            parts.append(_pinball(future, forecast, 0.5))
            crps = float((2 * np.mean(parts, 0).mean(1) / scales).mean())
        size = np.maximum(np.abs(future) + np.abs(forecast), 1e-12)
        smape = float((200 * np.abs(future - forecast) / size).mean())
        results[name] = Measures(float((np.abs(future - forecast).mean(1) / scales).mean()), smape, crps)
    return results


def _pinball(values: np.ndarray, quantile: np.ndarray, level: float) -> np.ndarray:
    return np.maximum(level * (values - quantile), (level - 1) * (values - quantile))


def naive_error(series: Series, plan: ForecastPlan) -> float:
    """Mean error of the seasonal naive forecast of one point within the part of a series that is for training."""
    values, season = series.values[: training_end(len(series.times), plan), 0], plan.naive_season
    gaps = np.abs(values[season:] - values[:-season])
    error = float(np.nanmean(gaps)) if np.isfinite(gaps).any() else 0.0
    return error or 1.0


def _fit_linear(windows: Windows, shown: Windows, plan: ForecastPlan) -> np.ndarray | None:
    """What a ridge regression on the points of a window gives (N, H); None if there are no training windows."""
    trained = windows.select(windows.splits == "train")
    if not len(trained.origin):
        return None
    inputs, new = (np.nan_to_num(each.points.reshape(len(each.origin), -1)) for each in (trained, shown))
    mean, gains = inputs.mean(0), trained.gains
    centred = inputs - mean
    gram = centred.T @ centred + RIDGE_PENALTY * len(inputs) * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (gains - gains.mean(0)))
    return (new - mean) @ weights + gains.mean(0)


def measure_notes(measures: Mapping[str, Measures], horizon: int) -> list[Note]:
    """One note for each forecast: its measures."""
    notes: list[Note] = []
    for name, each in measures.items():
        crps = "" if each.crps is None else f", CRPS {each.crps:.3f}"
        notes.append((name, f"MASE {each.mase:.3f}, sMAPE {each.smape:.1f}%{crps} on test origins, {horizon} ahead"))
    return notes
