"""A plot of forecasts: the end of each series, and how it goes on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from icecore.autofit.forecasts import SeriesForecast
from icecore.core.storage import write_atomic

#: series that are drawn, and known points of each, in horizons
MOST_SERIES, KNOWN_HORIZONS = 6, 4


def plot_forecasts(forecasts: Sequence[SeriesForecast], path: Path) -> None:
    """Write a PNG with one panel for each of the first series. Raises ImportError without matplotlib, StorageError."""
    from matplotlib.figure import Figure

    shown = forecasts[:MOST_SERIES]
    figure = Figure(figsize=(8, 2.4 * len(shown) + 0.4), layout="constrained")
    for axes, forecast in zip(np.atleast_1d(figure.subplots(len(shown), 1)), shown, strict=True):
        known = slice(-KNOWN_HORIZONS * len(forecast.forecast), None)
        times, next_times = (
            _for_axis(each, forecast.has_dates) for each in (forecast.times[known], forecast.next_times)
        )
        axes.plot(times, forecast.values[known], color="#444444", label="known")
        axes.plot(
            [times[-1], *next_times], [forecast.values[-1], *forecast.forecast], color="#c2410c", label="forecast"
        )
        axes.fill_between(next_times, forecast.low, forecast.high, color="#c2410c", alpha=0.2, label="10 to 90 %")
        axes.set_title(forecast.name, loc="left", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, ncols=3, loc="upper left", fontsize="small")
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _for_axis(times: np.ndarray, has_dates: bool) -> list[Any]:
    return [datetime.fromtimestamp(time, UTC) for time in times] if has_dates else times.tolist()
