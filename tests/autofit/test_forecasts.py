"""Forecasts from end to end: windows without leaks, a fit, a table and a plot of what comes next, and measures."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from icecore.autofit.fit import fit
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.forecasts import next_times, time_texts
from icecore.autofit.predict import predict
from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataEncoder, DataSettings, plan
from icecore.user_data.forecast_windows import ForecastPlan, Series, find_season, make_windows
from user_data_samples import describe


def write_series(path: Path, names: tuple[str, ...] = ("a", "b"), months: int = 96) -> Path:
    """Monthly series with a season of twelve, a trend, and a column that is only seen."""
    rng = np.random.default_rng(0)
    lines = ["month,shop,price,sales"]
    for number, name in enumerate(names):
        for t in range(months):
            date = f"{2010 + t // 12}-{t % 12 + 1:02}-01"
            sales = 100 * (number + 1) + t + 20 * np.sin(2 * np.pi * t / 12) + rng.normal()
            lines.append(f"{date},{name},{rng.normal():.3f},{sales:.3f}")
    path.write_text("\n".join(lines))
    return path


def test_windows_of_a_split_see_no_value_of_a_later_one() -> None:
    values = np.arange(100.0)[:, None]
    series = [Series("s", np.arange(100.0), values)]
    windows = make_windows(series, ForecastPlan(horizon=5, context=12, season=4, target="v"))
    last = {"train": 70, "val": 85, "test": 100}
    first = {"train": 12, "val": 70, "test": 85}
    for split, end in last.items():
        origins = windows.origin[windows.splits == split]
        assert (origins.min(), origins.max() + 5) == (first[split], end)
    assert (windows.splits == "next").sum() == 1
    np.testing.assert_array_equal(windows.future[0], np.arange(12, 17))
    np.testing.assert_array_equal(windows.naive[0], [8, 9, 10, 11, 8])
    # what is learned gives the values back
    known = windows.splits != "next"
    restored = windows.naive + windows.spread[:, None] * windows.gains
    np.testing.assert_allclose(restored[known], windows.future[known])


def test_seasons_by_dates_and_by_values() -> None:
    days = np.arange(60) * 86_400.0
    wave = np.sin(2 * np.pi * np.arange(60) / 5)[:, None]
    assert find_season([Series("s", days, wave)], True) == 7
    assert find_season([Series("s", days / 24, wave)], True) == 24
    assert find_season([Series("s", np.arange(60.0), wave)], False) == 5
    assert find_season([Series("s", np.arange(60.0), np.arange(60.0)[:, None])], False) == 1


def test_the_months_after_a_month() -> None:
    ends = [datetime(2023, month, day, tzinfo=UTC).timestamp() for month, day in ((10, 31), (11, 30), (12, 31))]
    texts = time_texts(next_times(np.array(ends), ForecastPlan(3, 4, 1, "v", has_dates=True)), True)
    assert texts == ["2024-01-31", "2024-02-29", "2024-03-31"]
    assert time_texts(next_times(np.array([1.0, 3.0]), ForecastPlan(2, 4, 1, "v")), False) == ["5", "7"]


@pytest.mark.slow
def test_a_forecast_from_fit_to_plot(tmp_path: Path, bodies: Mapping[str, str]) -> None:
    path, out = write_series(tmp_path / "s.csv"), tmp_path / "p.safetensors"
    data_plan = plan(path, DataSettings(task="forecast", horizon=6))
    text = describe(data_plan)
    assert "forecast: column 'sales' (--target); price are only seen" in text
    assert "series: 2, by column 'shop' (--series)" in text
    assert "season: 12 points" in text
    assert DataEncoder.from_json(data_plan.encoder.to_json()) == data_plan.encoder
    settings = FitSettings(backbone=bodies["bert"], lrs=(3e-3,), steps=40, layers=1)
    fit(data_plan.task(), settings, out, {"encoder": data_plan.encoder.to_json()}, "cpu")
    predictions = predict([out], path, "cpu")[out]
    assert list(predictions.columns) == ["time", "sales", "low (10%)", "high (90%)"]
    assert len(predictions) == 12
    assert predictions.columns["time"][:2].tolist() == ["2018-01-01", "2018-02-01"]
    truth = [100 + t + 20 * np.sin(2 * np.pi * t / 12) for t in range(96, 102)]
    np.testing.assert_allclose(predictions.columns["sales"][:6].astype(float), truth, atol=25)
    assert (predictions.columns["low (10%)"] <= predictions.columns["sales"]).all()
    assert (predictions.columns["sales"] <= predictions.columns["high (90%)"]).all()
    assert set(predictions.measures) == {"program", "seasonal naive", "linear model"}
    # the trend makes the last season too low by twelve
    assert predictions.measures["seasonal naive"].mase == pytest.approx(1, abs=0.15)
    assert predictions.measures["linear model"].mase < 0.5
    pytest.importorskip("matplotlib")
    from icecore.report.forecast_plot import plot_forecasts

    plot_forecasts(predictions.forecasts, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_errors_of_series_to_forecast(tmp_path: Path) -> None:
    path = write_series(tmp_path / "s.csv")
    with pytest.raises(DataError, match=r"shortest series has 96 points, too few to forecast 40"):
        plan(path, DataSettings(task="forecast", horizon=40))
    with pytest.raises(ConfigError, match=r"Unknown column 'sails'\. Did you mean 'sales'"):
        plan(path, DataSettings(task="forecast", target=("sails",)))
    with pytest.raises(DataError, match=r"column 'shop' must hold numbers to be forecast, but holds texts"):
        plan(path, DataSettings(task="forecast", target=("shop",)))
    with pytest.raises(ConfigError, match="horizon is the number of points to forecast: set --task forecast too"):
        DataSettings(horizon=3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.replace(",a,", ",").replace(",b,", ",").replace("shop,", "") for line in lines))
    with pytest.raises(DataError, match="96 times of series 'sales' repeat, so it is not one series"):
        plan(path, DataSettings(task="forecast", horizon=3))
