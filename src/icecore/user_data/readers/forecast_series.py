"""Series to forecast: a table with times, perhaps of several series, or a `.tsf` file of the forecasting archive."""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import pluralize
from icecore.user_data.column_table import ColumnTable
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.forecast_windows import Series
from icecore.user_data.notes import Note, join_names
from icecore.user_data.readers.column_roles import TARGET_NAMES, read_columns
from icecore.user_data.readers.source_files import ReadRequest, has_ending

TSF_ENDING = (".tsf",)
#: usual names of the columns of times, of series and of values, in lower case
TIME_NAMES = ("ds", "date", "time", "timestamp", "datetime", "month", "week", "day", "hour", "year", "t")
SERIES_NAMES = ("unique_id", "series_id", "item_id", "series", "id", "store", "sensor", "station")
VALUE_NAMES = (*TARGET_NAMES, "value", "values", "sales", "demand", "count")


class SeriesSet(NamedTuple):
    """Series of one table: names of its columns, and notes of what was chosen."""

    series: list[Series]
    target: str
    values: tuple[str, ...]
    time: str | None
    series_column: str | None
    has_dates: bool
    notes: list[Note]
    files: list[str]


def read_forecast_series(path: Path, request: ReadRequest) -> SeriesSet:
    """Read the series. Raises DataError for times that repeat, ConfigError for columns that do not exist."""
    if has_ending(path.name, TSF_ENDING):
        return _read_tsf(path)
    table, _, source = read_columns(request, (), may_sample=False)
    settings, columns = request.settings, table.columns
    for name in (settings.time, settings.series, *settings.target, *settings.values):
        if name is not None and name not in columns:
            raise unknown_name("column", name, columns)
    time = settings.time or _find_time(table)
    series_column = settings.series or _find_series(table, time)
    numeric = [n for n, c in columns.items() if c.type == "number" and n not in (time, series_column)]
    if not numeric:
        raise DataError(f"{path} has no numeric column to forecast. It has: {join_names(list(columns))}.")
    usual = [name for low in VALUE_NAMES for name in numeric if name.strip().lower() == low]
    target = (list(settings.target) or usual or numeric[-1:])[0]
    if target not in numeric:
        raise DataError(
            f"{path}: column {target!r} must hold numbers to be forecast, but holds {columns[target].type}s."
        )
    seen = tuple(name for name in (settings.values or numeric) if name != target)
    notes = list(table.notes)
    notes.append(
        ("forecast", f"column {target!r} (--target)" + (f"; {join_names(seen)} are only seen" if seen else ""))
    )
    notes.append(("time", f"column {time!r} (--time)" if time else "the order of the rows (--time names a column)"))
    values = np.stack([columns[name].values.astype(np.float64) for name in (target, *seen)], 1)
    times = columns[time].values.astype(np.float64) if time else table.row_numbers.astype(np.float64)
    series = _divide(path, table, series_column, times, values, target)
    if series_column:
        notes.append(("series", f"{len(series):,}, by column {series_column!r} (--series)"))
    has_dates = time is not None and columns[time].type == "date"
    return SeriesSet(series, target, seen, time, series_column, has_dates, notes, source["files"])


def _find_time(table: ColumnTable) -> str | None:
    """The first column of dates, or else of rising numbers with a usual name."""
    dates = [name for name, column in table.columns.items() if column.type == "date"]
    named = [name for name, c in table.columns.items() if c.type == "number" and name.strip().lower() in TIME_NAMES]
    return next(iter((*dates, *named)), None)


def _find_series(table: ColumnTable, time: str | None) -> str | None:
    """A column with a usual name of series, if times repeat; or the only column of few texts."""
    if time is None or len(np.unique(table.columns[time].values)) == len(table.row_numbers):
        return None
    named = [name for low in SERIES_NAMES for name in table.columns if name.strip().lower() == low]
    texts = [name for name, column in table.columns.items() if column.type == "text"]
    return next(iter((*named, *(texts if len(texts) == 1 else ()))), None)


def _divide(
    path: Path, table: ColumnTable, column: str | None, times: np.ndarray, values: np.ndarray, target: str
) -> list[Series]:
    """The series of a table, in order of time. Raises DataError for times that a series has twice."""
    labels = None if column is None else table.columns[column].as_labels()
    codes = np.zeros(len(times), int) if labels is None else labels.values
    series: list[Series] = []
    for code in np.unique(codes[codes >= 0]):
        rows = np.flatnonzero((codes == code) & np.isfinite(times))
        rows = rows[np.argsort(times[rows], kind="stable")]
        name = target if labels is None else labels.distinct_texts[code]
        if repeated := int((np.diff(times[rows]) == 0).sum()):
            raise DataError(
                f"{path}: {pluralize(repeated, 'time')} of series {name!r} repeat, so it is not one series. Name the "
                "column of the series with --series, or remove the copies."
            )
        series.append(Series(name, times[rows], values[rows]))
    return series


def _read_tsf(path: Path) -> SeriesSet:
    """Read a file of the forecasting archive with aeon. Raises DataError."""
    try:
        datasets = importlib.import_module("aeon.datasets")
    except ImportError as error:
        raise DataError(f"Reading {path} needs aeon: pip install 'icecore[timeseries]'") from error
    try:
        frame = datasets.load_from_tsf_file(str(path))[0]
    except Exception as error:  # aeon's loaders raise exceptions of many types
        raise DataError(f"{path} cannot be read by aeon ({error}). Check that the file is complete.") from error
    series = [
        Series(str(row.get("series_name", index)), np.arange(len(row["series_value"]), dtype=float), _column(row))
        for index, row in frame.iterrows()
    ]
    notes: list[Note] = [("series", f"{len(series):,}")]
    return SeriesSet(series, "value", (), None, None, False, notes, [path.name])


def _column(row: object) -> np.ndarray:
    values = row["series_value"]  # type: ignore[index]
    return np.array([np.nan if value == "NaN" else float(value) for value in values])[:, None]


def forecast_request(path: Path, settings: DataSettings) -> ReadRequest:
    """The request that reads series to train on."""
    return ReadRequest(path, settings, {}, False)
