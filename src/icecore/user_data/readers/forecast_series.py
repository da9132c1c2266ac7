"""Series to forecast: a table with times, perhaps of several series, or a `.tsf` file of the forecasting archive."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names, pluralize
from icecore.user_data.column_table import ColumnTable
from icecore.user_data.columns import ColumnType
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.forecast_windows import Series
from icecore.user_data.notes import Note
from icecore.user_data.readers.column_roles import TARGET_NAMES, read_columns
from icecore.user_data.readers.series_archives import import_loaders
from icecore.user_data.readers.source_files import ReadRequest, has_ending

TSF_ENDING = (".tsf",)
#: usual names of the columns of times, of series and of values, in lower case
TIME_NAMES = ("ds", "date", "time", "timestamp", "datetime", "month", "week", "day", "hour", "year", "t")
SERIES_NAMES = ("unique_id", "series_id", "item_id", "series", "id", "store", "sensor", "station")
VALUE_NAMES = (*TARGET_NAMES, "value", "values", "sales", "demand", "count")


#: how many times the usual step a step must be to count as a gap: months differ by less
GAP = 1.5


class SeriesSet(NamedTuple):
    """Series of one table: names of its columns, notes of what was chosen, and how its columns are read."""

    series: list[Series]
    target: str
    values: tuple[str, ...]
    time: str | None
    series_column: str | None
    has_dates: bool
    notes: list[Note]
    files: list[str]
    known: tuple[str, ...] = ()
    types: Mapping[str, ColumnType] = MappingProxyType({})
    formats: Mapping[str, str] = MappingProxyType({})


def read_forecast_series(path: Path, request: ReadRequest) -> SeriesSet:
    """Read the series. Raises DataError for times that repeat, ConfigError for columns that do not exist."""
    if has_ending(path.name, TSF_ENDING):
        return _read_tsf(path)
    table, _, source = read_columns(request, (), may_sample=False)
    settings, columns = request.settings, table.columns
    for name in (settings.time, settings.series, *settings.target, *settings.values, *settings.known):
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
    seen = tuple(name for name in (settings.values or numeric) if name not in (target, *settings.known))
    for name in (*seen, *settings.known):
        if name not in numeric or name == target:
            raise DataError(
                f"{path}: column {name!r} must hold numbers beside the target, but "
                f"{'is the target' if name == target else f'holds {columns[name].type}s'}. Write it as numbers, for "
                "example 0 and 1."
            )
    notes = list(table.notes)
    notes.append(
        ("forecast", f"column {target!r} (--target)" + (f"; {join_names(seen)} are only seen" if seen else ""))
    )
    if settings.known:
        notes.append(("known", f"{join_names(settings.known)}: known in advance, up to the end of the horizon"))
    notes.append(("time", f"column {time!r} (--time)" if time else "the order of the rows (--time names a column)"))
    numbers = _Numbers(*(_stack(table, names) for names in ((target, *seen), settings.known)))
    times = columns[time].values.astype(np.float64) if time else table.row_numbers.astype(np.float64)
    series = _divide(path, table, series_column, times, numbers, target, notes)
    if series_column:
        notes.append(("series", f"{len(series):,}, by column {series_column!r} (--series)"))
    has_dates = time is not None and columns[time].type == "date"
    used = (target, *seen, *settings.known, *([time] if time else []))
    types: dict[str, ColumnType] = {name: columns[name].type for name in used}
    files, formats = source["files"], source["formats"]
    return SeriesSet(series, target, seen, time, series_column, has_dates, notes, files, settings.known, types, formats)


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


class _Numbers(NamedTuple):
    """Values (N, V) of all rows, the one to forecast first, and columns that are known in advance (N, K)."""

    values: np.ndarray
    known: np.ndarray


def _stack(table: ColumnTable, names: Sequence[str]) -> np.ndarray:
    """Columns (N, n) side by side."""
    grid = np.empty((len(table.row_numbers), len(names)))
    for i, name in enumerate(names):
        grid[:, i] = table.columns[name].values
    return grid


def _without_copies(rows: np.ndarray, times: np.ndarray, numbers: _Numbers, name: str, notes: list[Note]) -> np.ndarray:
    """The rows (n,) of a series in order of time, without copies of the one before, which are noted."""
    grid = np.concatenate([times[:, None], numbers.values, numbers.known], 1)[rows]
    is_copy = ((grid[1:] == grid[:-1]) | (np.isnan(grid[1:]) & np.isnan(grid[:-1]))).all(1)
    if count := int(is_copy.sum()):
        notes.append(("copies", f"{pluralize(count, 'row')} of series {name!r} that it already has, left out"))
    return rows[np.append(True, ~is_copy)] if len(rows) else rows


def _divide(
    path: Path,
    table: ColumnTable,
    column: str | None,
    times: np.ndarray,
    numbers: _Numbers,
    target: str,
    notes: list[Note],
) -> list[Series]:
    """The series of a table, in order of time, up to their last value; columns known in advance go on.

    Raises DataError for times that a series has twice, and for a series without values.
    """
    labels = None if column is None else table.columns[column].as_labels()
    codes = np.zeros(len(times), int) if labels is None else labels.values
    series: list[Series] = []
    ahead = gaps = 0
    if lost := int(((codes < 0) | ~np.isfinite(times)).sum()):
        notes.append(("dropped", f"{pluralize(lost, 'row')} without a time or the name of a series"))
    for code in np.unique(codes[codes >= 0]):
        rows = np.flatnonzero((codes == code) & np.isfinite(times))
        rows = rows[np.argsort(times[rows], kind="stable")]
        name = target if labels is None else labels.distinct_texts[code]
        rows = _without_copies(rows, times, numbers, name, notes)
        if repeated := int((np.diff(times[rows]) == 0).sum()):
            raise DataError(
                f"{path}: {pluralize(repeated, 'time')} of series {name!r} repeat, so it is not one series. Name the "
                "column of the series with --series, or remove the copies."
            )
        steps = np.diff(times[rows])
        gaps += int((steps > GAP * np.median(steps)).sum()) if len(steps) else 0
        is_there = np.flatnonzero(np.isfinite(numbers.values[rows, 0]))
        if not len(is_there):
            raise DataError(f"{path}: series {name!r} has no value of {target!r}. Leave it out, or name --target.")
        past = rows[: is_there[-1] + 1]
        known = numbers.known[rows] if numbers.known.shape[1] else None
        series.append(Series(name, times[past], numbers.values[past], known))
        ahead += len(rows) - len(past)
    if gaps:
        message = (
            f"{pluralize(gaps, 'longer step')} between times: points count as evenly spaced (add rows without values)"
        )
        notes.append(("gaps", message))
    if ahead:
        notes.append(("not yet", f"{pluralize(ahead, 'row')} after the last value of {target!r}"))
    return series


def _read_tsf(path: Path) -> SeriesSet:
    """Read a file of the forecasting archive with aeon. Raises DataError."""
    datasets = import_loaders(path)
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


def forecast_request(
    path: Path,
    settings: DataSettings,
    types: Mapping[str, ColumnType] | None = None,
    formats: Mapping[str, str] | None = None,
) -> ReadRequest:
    """The request that reads series: those to train on, or new ones with the types and formats of training."""
    return ReadRequest(path, settings, types or {}, False, formats or {})
