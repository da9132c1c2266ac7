"""Series to forecast as records: one row for each window, one target for each point of the horizon."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import pluralize
from icecore.user_data.columns import Column, ColumnType
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.forecast_windows import ForecastPlan, Series, Windows, find_context, find_season, make_windows
from icecore.user_data.notes import Note
from icecore.user_data.readers.forecast_series import forecast_request, read_forecast_series
from icecore.user_data.records import NumberNames, SequenceRecords


def forecast_records(path: Path, settings: DataSettings) -> tuple[SequenceRecords, ForecastPlan]:
    """Read series and cut windows for training. Raises DataError, ConfigError."""
    if not path.exists():
        raise DataError(f"{path} does not exist. Check the path.")
    found = read_forecast_series(path, forecast_request(path, settings))
    season = settings.season or find_season(found.series, found.has_dates)
    horizon = settings.horizon or max(season, 1)
    context = find_context(found.series, horizon, season, settings.length)
    plan = ForecastPlan(
        horizon,
        context,
        season,
        found.target,
        found.values,
        found.time,
        found.series_column,
        found.has_dates,
        found.known,
    )
    windows = make_windows(found.series, plan)
    windows = windows.select(windows.splits != "next")
    notes: list[Note] = [
        *found.notes,
        ("horizon", f"{pluralize(horizon, 'point')} (--horizon)"),
        ("season", f"{pluralize(season, 'point')} (--season)" if season > 1 else "none found (--season)"),
        ("windows", f"of {pluralize(context, 'point')} (--length); the latest are for validation and test"),
    ]
    records = window_records(windows, plan, windows.splits, notes, found.files)
    return replace(records, source={**records.source, "types": found.types, "formats": found.formats}), plan


def window_records(
    windows: Windows, plan: ForecastPlan, splits: np.ndarray | None, notes: list[Note], files: list[str]
) -> SequenceRecords:
    """One row for each window."""
    gains = windows.gains
    targets = {
        f"{plan.target}+{step}": Column(f"{plan.target}+{step}", "number", gains[:, step - 1], origin="float")
        for step in range(1, plan.horizon + 1)
    }
    return SequenceRecords(
        sequences=windows.sequences(),
        targets=targets,
        names=NumberNames(np.arange(len(windows.origin))),
        splits=splits,
        source={"format": "series to forecast", "files": files, "values": plan.values},
        notes=notes,
    )


def read_new_series(
    path: Path,
    settings: DataSettings,
    plan: ForecastPlan,
    types: Mapping[str, ColumnType],
    formats: Mapping[str, str],
) -> tuple[list[Series], Windows]:
    """The series of new data and their windows, the next ones among them. Raises DataError.

    types, formats  those of the columns of training
    """
    given = replace(
        settings,
        task="forecast",
        target=(plan.target,) if plan.time or plan.series or plan.values or plan.known else (),
        values=plan.values,
        known=plan.known,
        time=plan.time,
        series=plan.series,
    )
    found = read_forecast_series(path, forecast_request(path, given, types, formats))
    return found.series, make_windows(found.series, plan, training=False)
