"""Forecasts from end to end: windows without leaks, a fit, a table and a plot of what comes next, and measures."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from commandline import Run
from icecore.autofit.exponential_smoothing import ets_gains
from icecore.autofit.fit import fit
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.forecasts import naive_error, next_times, time_texts
from icecore.autofit.predict import predict
from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataEncoder, DataSettings, encode, plan
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
    assert {"program", "seasonal naive", "linear model"} <= set(predictions.measures)
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


def known_series(path: Path, ahead: int) -> Path:
    """A series that rises by ten on days that a column names in advance, with rows after its last value."""
    rng = np.random.default_rng(0)
    sale, noise = rng.integers(0, 2, 400), rng.normal(0, 0.1, 400)
    lines = ["day,sale,sales"]
    for t in range(300 + ahead):
        sales = f"{50 + 10 * sale[t] + noise[t]:.3f}" if t < 300 else ""
        lines.append(f"{t},{sale[t]},{sales}")
    path.write_text("\n".join(lines))
    return path


KNOWN = DataSettings(task="forecast", time="day", known=("sale",), horizon=4, season=1)


def test_columns_known_in_advance_are_seen_for_the_horizon(tmp_path: Path) -> None:
    series = Series("s", np.arange(60.0), np.arange(60.0)[:, None], np.arange(100.0, 164)[:, None])
    known = ForecastPlan(horizon=4, context=8, season=1, target="v", known=("k",))
    windows = make_windows([series], known)
    for split in ("train", "test", "next"):
        row = np.flatnonzero(windows.splits == split)[0]
        # both columns are straight lines, so their last point is as far above the mean of a window
        np.testing.assert_allclose(windows.points[row, :, 0], windows.points[row, :, 1])
        level = windows.origin[row] - 4.5 + 100 + 4
        spread = np.sqrt(np.mean((np.arange(8) - 3.5) ** 2))
        assert windows.points[row, -1, 1] * spread + level == pytest.approx(windows.origin[row] + 100 + 3)
    short = Series("s", series.times, series.values, np.arange(60.0)[:, None])
    assert "next" not in make_windows([short], known).splits


def test_what_is_known_in_advance_makes_the_forecast(tmp_path: Path, bodies: Mapping[str, str], run: Run) -> None:
    path, out = known_series(tmp_path / "s.csv", 4), tmp_path / "p.safetensors"
    data_plan = plan(path, KNOWN)
    text = describe(data_plan)
    assert "known: sale: known in advance, up to the end of the horizon" in text
    assert "not yet: 4 rows after the last value of 'sales'" in text
    fit(
        data_plan.task(),
        FitSettings(backbone=bodies["bert"], lrs=(3e-3,), steps=1, layers=1),
        out,
        {"encoder": data_plan.encoder.to_json()},
        "cpu",
    )
    predictions = predict([out], path, "cpu")[out]
    # the noise of the series is a hundredth of what the column explains, and the past explains nothing
    assert predictions.measures["linear model"].mase < 0.3 * predictions.measures["seasonal naive"].mase
    assert predictions.columns["time"].tolist() == ["300", "301", "302", "303"]
    short = predict([out], known_series(tmp_path / "t.csv", 2), "cpu")[out]
    assert len(short) == 0
    assert ("next", "sales: not forecast, which takes 4 rows with sale more") in short.notes
    ended = run("predict", out, tmp_path / "t.csv")
    assert ended.code == 2
    assert "no series has the rows that p.safetensors needs to forecast it" in ended.err


def test_rows_after_the_last_value_are_no_points(tmp_path: Path) -> None:
    path = known_series(tmp_path / "s.csv", 6)
    data_plan = plan(path, DataSettings(task="forecast", time="day", horizon=4, season=1))
    assert "not yet: 6 rows after the last value of 'sales'" in describe(data_plan)
    with_rows, without = (plan(known_series(tmp_path / "t.csv", n), KNOWN).splits["test"].inputs for n in (4, 0))
    np.testing.assert_array_equal(with_rows, without)


def test_doubled_rows_of_a_series_to_forecast_count_once(tmp_path: Path) -> None:
    path = known_series(tmp_path / "s.csv", 0)
    header, *lines = path.read_text().splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([header, *(line for line in lines for _ in range(2))]))
    once, twice = plan(path, KNOWN), plan(tmp_path / "twice.csv", KNOWN)
    assert "copies: 300 rows of series 'sales' that it already has, left out" in describe(twice)
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(once.splits[split].inputs, twice.splits[split].inputs)


def test_wrong_columns_known_in_advance(tmp_path: Path) -> None:
    path = write_series(tmp_path / "s.csv")
    with pytest.raises(ConfigError, match=r"Unknown column 'prize'\. Did you mean 'price'"):
        plan(path, DataSettings(task="forecast", known=("prize",)))
    with pytest.raises(DataError, match="column 'shop' must hold numbers beside the target, but holds texts"):
        plan(path, DataSettings(task="forecast", known=("shop",)))
    with pytest.raises(DataError, match="column 'sales' must hold numbers beside the target, but is the target"):
        plan(path, DataSettings(task="forecast", target=("sales",), known=("sales",)))
    with pytest.raises(ConfigError, match="known names columns for a forecast: set --task forecast too"):
        DataSettings(known=("price",))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line if ",b," not in line else line.rpartition(",")[0] + "," for line in lines))
    with pytest.raises(DataError, match=r"series 'b' has no value of 'sales'"):
        plan(path, DataSettings(task="forecast", target=("sales",), horizon=3))


def test_ets_is_a_control_where_statsmodels_is(tmp_path: Path) -> None:
    pytest.importorskip("statsmodels")
    t = np.arange(120.0)
    values = 100 + t + 20 * np.sin(2 * np.pi * t / 12) + np.random.default_rng(0).normal(size=120)
    series = [Series("s", t, values[:, None])]
    season = ForecastPlan(horizon=6, context=24, season=12, target="v")
    windows = make_windows(series, season)
    shown = windows.select(windows.splits == "test")
    gains = ets_gains(season, series, shown)
    assert gains is not None
    errors = shown.naive + shown.spread[:, None] * gains - shown.future
    assert np.abs(errors).mean() < 2  # the naive forecast is wrong by the trend of a year, which is 12
    # a later value cannot change the forecast from an origin
    later = [Series("s", t, np.where(t < shown.origin[0], values, 0.0)[:, None])]
    again = ets_gains(season, later, shown.select(np.array([0])))
    assert again is not None
    np.testing.assert_allclose(again, gains[:1])


def test_ets_fills_a_gap_from_what_is_known_at_the_origin() -> None:
    pytest.importorskip("statsmodels")
    t = np.arange(120.0)
    values = 100 + t + np.random.default_rng(0).normal(size=120)
    values[100:104] = np.nan
    season = ForecastPlan(horizon=6, context=24, season=1, target="v")
    shown = make_windows([Series("s", t, values[:, None])], season)
    shown = shown.select(np.flatnonzero(shown.origin == 104))
    first, again = (
        ets_gains(season, [Series("s", t, np.where(t < 104, values, later)[:, None])], shown) for later in (values, 1e6)
    )
    assert first is not None
    assert again is not None
    np.testing.assert_allclose(again, first)


def test_errors_are_in_units_of_the_naive_forecast_within_the_training_part() -> None:
    values = np.cumsum(np.random.default_rng(0).normal(size=60))
    long = ForecastPlan(horizon=20, context=8, season=1, target="v")  # two horizons of 60 are held out
    changed = np.where(np.arange(60) < 20, values, 1e6)
    one, other = (naive_error(Series("s", np.arange(60.0), each[:, None]), long) for each in (values, changed))
    assert one == other
    assert naive_error(Series("s", np.arange(30.0), values[:30, None]), long) == 1.0  # nothing is left for training


def test_errors_of_windows_shorter_than_a_season_are_scaled_like_the_naive_forecast() -> None:
    # the training part has 42 of 60 points, so that no two of them are a season of 52 apart
    yearly = ForecastPlan(horizon=9, context=20, season=52, target="v")
    assert naive_error(Series("s", np.arange(60.0), np.arange(60.0)[:, None]), yearly) == 20


def test_ets_is_left_out_without_statsmodels_and_for_long_series(monkeypatch: pytest.MonkeyPatch) -> None:
    season = ForecastPlan(horizon=2, context=8, season=1, target="v")
    series = [Series("s", np.arange(60.0), np.arange(60.0)[:, None])]
    windows = make_windows(series, season)
    assert ets_gains(season, [Series("s", np.arange(3000.0), np.ones((3000, 1)))], windows) is None
    monkeypatch.setitem(sys.modules, "statsmodels.tsa.exponential_smoothing.ets", None)
    assert ets_gains(season, series, windows) is None


def test_new_rows_are_read_as_those_of_training(tmp_path: Path) -> None:
    """A few rows may leave open what many show: 1.204 is 1204 here, and 02/01/2024 is in January."""
    lines = [f"{(t % 28) + 1:02}/{t // 28 + 1:02}/2024;1.{200 + 7 * t % 90:03},5" for t in range(110)]
    (tmp_path / "s.csv").write_text("\n".join(["day;sales", *lines]))
    encoder = plan(tmp_path / "s.csv", DataSettings(task="forecast", horizon=2, season=1, length=4)).encoder
    new = "\n".join(["day;sales", *(f"0{t + 1}/01/2024;1.{204 + t}" for t in range(6))])
    (tmp_path / "new.csv").write_text(new)
    (series,) = encode(DataEncoder.from_json(encoder.to_json()), tmp_path / "new.csv").series
    assert series.values[:, 0].tolist() == [1204, 1205, 1206, 1207, 1208, 1209]
    assert np.diff(series.times).tolist() == [86_400] * 5


def test_gaps_and_rows_without_a_time_are_said(tmp_path: Path) -> None:
    path = write_series(tmp_path / "s.csv", names=("a",))
    settings = DataSettings(task="forecast", horizon=6, target=("sales",))
    assert "gaps" not in describe(plan(path, settings))
    header, *lines = path.read_text().splitlines()
    del lines[40:43]
    lines[10] = "," + lines[10].partition(",")[2]
    path.write_text("\n".join([header, *lines]))
    text = describe(plan(path, settings))
    assert "gaps: 2 longer steps between times: points count as evenly spaced" in text
    assert "dropped: 1 row without a time or the name of a series" in text
