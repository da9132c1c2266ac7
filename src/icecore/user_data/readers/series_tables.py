"""Tables of time series: long, with a point per row and a column that names its series, or wide, a series per row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names, pluralize
from icecore.user_data.column_table import ColumnTable
from icecore.user_data.columns import Column
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.notes import Note
from icecore.user_data.readers.column_roles import note_left_out, read_columns, target_names
from icecore.user_data.readers.source_files import ReadRequest
from icecore.user_data.records import NumberNames, SequenceRecords
from icecore.user_data.row_counters import counts_rows
from icecore.user_data.sequences import Sequences


def read_series(request: ReadRequest) -> SequenceRecords:
    """Read a long table if the settings name a series column, otherwise a wide one. Raises DataError, ConfigError."""
    settings = request.settings
    keep_all_texts = [*settings.target, *([settings.series] if settings.series else [])]
    always_numeric = [*settings.values, *([settings.time] if settings.time else [])]
    table, splits, source = read_columns(request, keep_all_texts, may_sample=False, always_numeric=always_numeric)
    targets = target_names(request, table)
    table.columns |= {name: table.target(name) for name in targets}
    names = _value_columns(request, table, targets)
    used = [*names, *([settings.time] if settings.time else [])]
    # new rows are read as the same types, whatever they look like: a few may have no value
    source = {**source, "values": tuple(names), "types": {name: table.columns[name].type for name in used}}
    build = _wide_records if settings.series is None else _long_records
    return build(table, targets, names, splits, settings, source)


def _wide_records(
    table: ColumnTable,
    targets: Sequence[str],
    names: Sequence[str],
    splits: np.ndarray | None,
    settings: DataSettings,
    source: Mapping[str, Any],
) -> SequenceRecords:
    """One series per row: its value columns are points in time, in the order of the table."""
    grid = _numbers(table, names)
    T = grid.shape[1]
    is_there = ~np.isnan(grid)
    lengths = T - (is_there[:, ::-1].argmax(1))
    lengths[~is_there.any(1)] = 1  # an empty series becomes one missing point
    points = grid[np.arange(T) < lengths[:, None]][:, None]
    return SequenceRecords(
        sequences=Sequences(points, lengths),
        targets={name: table.columns[name] for name in targets},
        names=NumberNames(table.row_numbers),
        row_numbers=table.row_numbers,
        splits=splits,
        groups=table.groups,
        others={name: column for name, column in table.columns.items() if name not in {*names, *targets}},
        source=source,
        notes=table.notes,
    )


def _long_records(
    table: ColumnTable,
    targets: Sequence[str],
    names: Sequence[str],
    splits: np.ndarray | None,
    settings: DataSettings,
    source: Mapping[str, Any],
) -> SequenceRecords:
    """One point per row: the rows of one series form a sequence, ordered by the time column or as in the file.

    Raises DataError if a target changes within a series, ConfigError for columns that do not exist.
    """
    ids = table.columns[settings.series or ""].as_labels()
    time = table.columns[settings.time].values if settings.time else table.row_numbers
    has_id = ids.values >= 0
    _note_lost_points(table, has_id, settings.time)
    order = np.flatnonzero(has_id)[np.lexsort((time[has_id], ids.values[has_id]))]
    if settings.time:
        order = _without_copies(order, ids.values, time, _numbers(table, names), table.notes)
    else:
        table.notes += _note_doubled(table, order)
    series, first, lengths = np.unique(ids.values[order], return_index=True, return_counts=True)
    points = _numbers(table, names)[order]
    starts = order[first]
    series_names = [ids.distinct_texts[code] for code in series.tolist()]
    changing = {f"target {name!r}": table.columns[name].values for name in targets}
    if splits is not None:
        changing["the split"] = np.unique(splits, return_inverse=True)[1]
    for what, values in changing.items():
        is_changed = _changes(values[order], lengths)
        if is_changed.any():
            name = series_names[int(np.searchsorted(first, is_changed.argmax(), "right")) - 1]
            raise DataError(
                f"{join_names(source['files'])}: {what} changes within the series {name!r}. Give each series one "
                f"value, or {'choose another --target' if what != 'the split' else 'set --split none'}."
            )
    roles = {*names, *targets, settings.series, settings.time}
    free = [column for name, column in table.columns.items() if name not in roles]
    return SequenceRecords(
        sequences=Sequences(points, lengths),
        targets={name: table.columns[name].select(starts) for name in targets},
        names=series_names,
        splits=None if splits is None else splits[starts],
        groups=None if table.groups is None else table.groups[starts],
        others={c.name: c.select(starts) for c in free if not _changes(c.values[order], lengths).any()},
        source=source,
        notes=table.notes,
    )


def _changes(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whether each value (N,) is another than the first one of its series; missing ones are not."""
    starts = np.cumsum(lengths) - lengths
    return (values != np.repeat(values[starts], lengths)) & (values == values)


def _without_copies(
    order: np.ndarray, ids: np.ndarray, time: np.ndarray, values: np.ndarray, notes: list[Note]
) -> np.ndarray:
    """The rows `order` (n,), sorted by series and time, without copies of a point; notes these, and repeated times."""
    if len(order) < 2:
        return order
    same_time = (ids[order][1:] == ids[order][:-1]) & (time[order][1:] == time[order][:-1])
    grid = values[order]
    equal = ((grid[1:] == grid[:-1]) | (np.isnan(grid[1:]) & np.isnan(grid[:-1]))).all(1)
    copies = np.append(False, same_time & equal)
    if copies.any():
        message = f"{pluralize(int(copies.sum()), 'row')} with a point that their series already has, left out"
        notes.append(("copies", message))
    if count := int((same_time & ~equal).sum()):
        message = f"{pluralize(count, 'point')} at a time that their series already has, kept in file order"
        notes.append(("times", message))
    return order[~copies]


def _note_lost_points(table: ColumnTable, has_id: np.ndarray, time: str | None) -> None:
    """Note rows (N,) that belong to no series, or have no time."""
    if lost := int((~has_id).sum()):
        table.notes.append(("dropped", f"{pluralize(lost, 'row')} without the name of a series"))
    if time is not None and (lost := int(table.columns[time].is_missing().sum())):
        table.notes.append(("times", f"{pluralize(lost, 'row')} without a time, taken as the last of their series"))


def _note_doubled(table: ColumnTable, order: np.ndarray) -> list[Note]:
    """A note if at least half of the rows `order` (n,) equal the one before: without times, they may be points."""
    grid = np.stack([column.values[order].astype(np.float64) for column in table.columns.values()], 1)
    equal = ((grid[1:] == grid[:-1]) | (np.isnan(grid[1:]) & np.isnan(grid[:-1]))).all(1)
    count = int(equal.sum())
    if not count or 2 * count < len(order):
        return []
    message = f"{pluralize(count, 'row')} like the one before, kept as a point: no --time says whether it is a copy"
    return [("copies", message)]


def _value_columns(request: ReadRequest, table: ColumnTable, targets: Sequence[str]) -> list[str]:
    """Names of the columns of measured values: those that are set, or else all numeric ones without another role."""
    settings = request.settings
    for name in (settings.series, settings.time):
        if name is not None and name not in table.columns:
            raise unknown_name("column", name, table.columns)
    for name in settings.values:
        if name not in table.columns:
            raise unknown_name("value column", name, table.columns)
    if settings.time and table.columns[settings.time].type == "text":
        raise DataError(
            f"Column {settings.time!r} orders the points of a series, so it must hold numbers or ISO dates, "
            "but it holds text."
        )
    with_role = {*targets, settings.series, settings.time}
    numeric = {name for name, column in table.columns.items() if _is_numeric(column, request.predicting)}
    if texts := [name for name in settings.values if name not in numeric]:
        column = table.columns[texts[0]]
        reason = f": {column.number_hint}" if column.number_hint else ""
        raise DataError(f"Column {column.name!r} must hold measured values, but holds {column.type}s{reason}.")
    free = [name for name in table.columns if name in numeric and name not in with_role]
    counters: list[str] = []
    if settings.series is None and not settings.values and not request.predicting:
        counters = [name for name in free if name not in settings.keep and counts_rows(table.columns[name])]
    names = list(settings.values) or [name for name in free if name not in counters]
    if not names:
        raise DataError(
            f"The series have no numeric columns. The table has: {join_names(list(table.columns))}. "
            "Name the columns of measured values with --values."
        )
    note_left_out(table, counters, "it counts the rows (--keep takes it)")
    left_out = [name for name in table.columns if name not in {*with_role, *names, *counters}]
    note_left_out(table, left_out, "not a value of the series")
    return names


def _is_numeric(column: Column, predicting: bool) -> bool:
    """Whether a column holds numbers; in new rows, all of its numbers may be missing."""
    return column.type == "number" or (predicting and bool(column.is_missing().all()))


def _numbers(table: ColumnTable, names: Sequence[str]) -> np.ndarray:
    """Numeric columns (N, n) side by side as float32, nan where a number is missing."""
    columns = [table.columns[name] for name in names]
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and counts as missing
        return np.stack(
            [np.where(column.is_missing() & (column.type != "number"), np.nan, column.values) for column in columns], 1
        ).astype(np.float32)
