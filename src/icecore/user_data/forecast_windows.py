"""Forecasting as windows: the last points of a series in, its next H points out.

A window's values are relative to its own level and spread, and what is learned is the difference from the seasonal
naive forecast, so a program that has learned nothing forecasts the last season again. The splits are in time: the
program is chosen on origins that come after all training values, and tested on origins that come after those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.sequences import Sequences

#: share of a series, at its end, for each of validation and test
HELD_OUT_SHARE = 0.15
#: points before an origin that the program sees, at least, unless `length` says otherwise or series are too short
MIN_CONTEXT = 32
#: origins of one series and split, at most, evenly spaced
MAX_ORIGINS = 2000
#: seconds between points, up to 10 % more or less, and the points of a season
_SEASONS = ((3600, 24), (86_400, 7), (7 * 86_400, 52), (30.4 * 86_400, 12), (91.3 * 86_400, 4), (365.25 * 86_400, 1))


@dataclass(frozen=True)
class Series:
    """One series of T points.

    times   (T,) seconds since 1970, or numbers
    values  (T, V): the value to forecast, then the columns that are only seen
    known   (T + F, K): the columns that are known F points in advance; None if there are none
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    known: np.ndarray | None = None


@dataclass(frozen=True)
class ForecastPlan:
    """What is needed to make windows of new series as of those of training.

    horizon    H: points to forecast
    context    L: points that a window has
    season     m: points after which the series repeats itself, 1 if it does not
    target     name of the value to forecast
    values     names of the columns that are only seen
    has_dates  times are dates
    known      names of the columns that are known in advance
    """

    horizon: int
    context: int
    season: int
    target: str
    values: tuple[str, ...] = ()
    time: str | None = None
    series: str | None = None
    has_dates: bool = False
    known: tuple[str, ...] = ()

    @property
    def naive_season(self) -> int:
        """Points after which the seasonal naive forecast repeats a window, which sees no more than L."""
        return min(self.season, self.context)


@dataclass(frozen=True)
class Windows:
    """N windows of several series.

    points  (N, L, V + K) relative to each window's level and spread
    naive   (N, H) seasonal naive forecast
    spread  (N,) of the window's target
    future  (N, H) true values, nan where they are not known
    splits  (N,) "train", "val", "test", or "next" for the forecast beyond the end
    series  (N,) index of the series
    origin  (N,) index of the first point that is forecast
    """

    points: np.ndarray
    naive: np.ndarray
    spread: np.ndarray
    future: np.ndarray
    splits: np.ndarray
    series: np.ndarray
    origin: np.ndarray

    @property
    def gains(self) -> np.ndarray:
        """What is learned (N, H): the difference from the naive forecast in spreads of the window."""
        return (self.future - self.naive) / self.spread[:, None]

    def select(self, rows: np.ndarray) -> "Windows":
        """These windows only."""
        return Windows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def sequences(self) -> Sequences:
        """The windows as sequences."""
        N, L, V = self.points.shape
        return Sequences(self.points.reshape(N * L, V).astype(np.float32), np.full(N, L))


def find_season(series: Sequence[Series], has_dates: bool) -> int:
    """Points of a season: by the time between points, or else where the differences of the series repeat themselves."""
    step = float(np.median(np.diff(series[0].times))) if len(series[0].times) > 1 else 0.0
    if has_dates:
        for seconds, season in _SEASONS:
            if abs(step - seconds) < 0.1 * seconds:
                return season
        if 0 < step < 3600:
            return round(86_400 / step)
    values = np.nan_to_num(np.diff(series[0].values[:, 0]))
    values = values - values.mean()
    power = float(values @ values)
    lags = range(2, len(values) // 3)
    if not power or not lags:
        return 1
    correlations = np.array([values[:-lag] @ values[lag:] / power for lag in lags])
    return int(correlations.argmax()) + 2 if correlations.max() > 0.3 else 1


def find_context(series: Sequence[Series], horizon: int, season: int, length: int | None) -> int:
    """L: two seasons, three horizons or 32 points, as many as the shortest series allows. Raises DataError."""
    shortest = min(len(each.times) for each in series)
    context = length or max(2 * season, 3 * horizon, MIN_CONTEXT)
    most = shortest - 2 * held_out_points(shortest, horizon) - horizon
    if most < (length or 4):
        raise DataError(
            f"The shortest series has {shortest:,} points, too few to forecast {horizon}: training, validation and "
            "test each need a horizon, and points before it. Provide longer series, or a smaller --horizon or --length."
        )
    return min(context, most)


def make_windows(series: Sequence[Series], plan: ForecastPlan, training: bool = True) -> Windows:
    """All windows of the series, at most 2,000 of a split each; without `training`, the last ones need not be whole.

    Raises DataError for a series that is shorter than a window.
    """
    parts: list[Windows] = []
    for index, each in enumerate(series):
        T, H, L = len(each.times), plan.horizon, plan.context
        if T < L:
            raise DataError(f"Series {each.name!r} has {T:,} points, but {L:,} are needed to see what comes next.")
        ends = {"train": training_end(T, plan), "val": T - held_out_points(T, H), "test": T}
        first = L
        for split, end in ends.items():
            origins = np.arange(first, end - H + 1)
            if len(origins) > MAX_ORIGINS:
                origins = origins[np.linspace(0, len(origins) - 1, MAX_ORIGINS).astype(int)]
            parts.append(_cut(each, origins, plan, split, index))
            first = max(L, end)
        # without what must be known in advance, what comes next is not forecast
        is_ready = each.known is None or len(each.known) >= T + H
        parts.append(_cut(each, np.arange(T, T + is_ready), plan, "next", index))
    windows = Windows(*(np.concatenate([getattr(p, name) for p in parts]) for name in Windows.__dataclass_fields__))
    known = np.isfinite(windows.future).all(1) | (windows.splits == "next")
    windows = windows.select(known & np.isfinite(windows.naive).all(1))
    if training and not {"train", "val"} <= set(windows.splits):
        raise DataError("The series are too short or have too many gaps to train a forecast. Provide longer series.")
    return windows


def held_out_points(points: int, horizon: int) -> int:
    """How many points at the end of a series of T points are for the test, and as many before them for validation."""
    return max(horizon, round(HELD_OUT_SHARE * points))


def training_end(points: int, plan: ForecastPlan) -> int:
    """Index of the first point that is no longer for training, in a series of T points; 0 for a short one."""
    return max(0, points - 2 * held_out_points(points, plan.horizon))


def _cut(series: Series, origins: np.ndarray, plan: ForecastPlan, split: str, index: int) -> Windows:
    """The windows of a series before each of its origins (n,).

    Columns that are known in advance are those of H points later, so that the last H points of a window hold them for
    the horizon.
    """
    values, n, H, L, m = series.values, len(origins), plan.horizon, plan.context, plan.naive_season
    before = origins[:, None] + np.arange(-L, 0)
    windows = values[before]
    if series.known is not None:
        windows = np.concatenate([windows, series.known[before + H]], 2)
    padded = np.concatenate([values[:, 0], np.full(H, np.nan)])
    future = padded[origins[:, None] + np.arange(H)]
    naive = windows[:, L - m + np.arange(H) % m, 0]
    is_known = np.isfinite(windows)
    filled = np.where(is_known, windows, 0)
    counts = np.maximum(is_known.sum(1), 1)
    level = filled.sum(1) / counts
    spread = np.sqrt((np.where(is_known, windows - level[:, None], 0) ** 2).sum(1) / counts)
    spread = np.where(spread > 1e-9 * np.abs(level), spread, np.maximum(np.abs(level), 1.0))
    points = (windows - level[:, None]) / spread[:, None]
    if split == "next":
        future = np.full((n, H), np.nan)
    return Windows(points, naive, spread[:, 0], future, np.full(n, split, "U5"), np.full(n, index), origins)
