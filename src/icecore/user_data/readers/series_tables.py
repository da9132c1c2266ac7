"""Tables of time series: long, with a point per row and a column that names its series, or wide, a series per row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import pluralize
from icecore.user_data.column_table import ColumnTable
from icecore.user_data.columns import Column
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.notes import Note, join_names
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
    build = _wide_records if settings.series is None else _long_records
    return build(table, targets, splits, settings, source)


def _wide_records(
    table: ColumnTable,
    targets: Sequence[str],
    splits: np.ndarray | None,
    settings: DataSettings,
    source: Mapping[str, Any],
) -> SequenceRecords:
    """One series per row: its value columns are points in time, in the order of the table."""
    names = _value_columns(table, settings, targets)
    grid = np.stack([table.columns[name].values for name in names], 1).astype(np.float32)
    T = grid.shape[1]
    is_finite = np.isfinite(grid)
    lengths = T - (is_finite[:, ::-1].argmax(1))
    lengths[~is_finite.any(1)] = 1  # an empty series becomes one missing point
    points = grid[np.arange(T) < lengths[:, None]][:, None]
    return SequenceRecords(
        sequences=Sequences(points, lengths),
        targets={name: table.columns[name] for name in targets},
        names=NumberNames(table.row_numbers),
        splits=splits,
        groups=table.groups,
        source={**source, "values": tuple(names)},
        notes=table.notes,
    )


def _long_records(
    table: ColumnTable,
    targets: Sequence[str],
    splits: np.ndarray | None,
    settings: DataSettings,
    source: Mapping[str, Any],
) -> SequenceRecords:
    """One point per row: the rows of one series form a sequence, ordered by the time column or as in the file.

    Raises DataError if a target changes within a series, ConfigError for columns that do not exist.
    """
    for name in (settings.series, settings.time):
        if name is not None and name not in table.columns:
            raise unknown_name("column", name, table.columns)
    ids = table.columns[settings.series or ""].as_labels()
    if settings.time and table.columns[settings.time].type == "text":
        raise DataError(
            f"Column {settings.time!r} orders the points of a series, so it must hold numbers or ISO dates, "
            "but it holds text."
        )
    time = table.columns[settings.time].values if settings.time else table.row_numbers
    names = _value_columns(table, settings, targets)
    has_id = ids.values >= 0
    order = np.flatnonzero(has_id)[np.lexsort((time[has_id], ids.values[has_id]))]
    if settings.time:
        order = _without_copies(order, ids.values, time, [table.columns[name] for name in names], table.notes)
    series, first, lengths = np.unique(ids.values[order], return_index=True, return_counts=True)
    points = np.stack([table.columns[name].values[order] for name in names], 1).astype(np.float32)
    starts = order[first]
    series_names = [ids.distinct_texts[code] for code in series.tolist()]
    target_columns: dict[str, Column] = {}
    for name in targets:
        column = table.columns[name]
        is_changed = _changes(column.values[order], lengths)
        if is_changed.any():
            name_of_series = series_names[int(np.searchsorted(first, is_changed.argmax(), "right")) - 1]
            raise DataError(
                f"{join_names(source['files'])}: target {name!r} changes within the series {name_of_series!r}. "
                "Give each series one value, or choose another --target."
            )
        target_columns[name] = column.select(starts)
    return SequenceRecords(
        sequences=Sequences(points, lengths),
        targets=target_columns,
        names=series_names,
        splits=None if splits is None else splits[starts],
        groups=None if table.groups is None else table.groups[starts],
        source={**source, "values": tuple(names)},
        notes=table.notes,
    )


def _changes(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whether each value (N,) is another than the first one of its series; missing ones are not."""
    starts = np.cumsum(lengths) - lengths
    return (values != np.repeat(values[starts], lengths)) & (values == values)


def _without_copies(
    order: np.ndarray, ids: np.ndarray, time: np.ndarray, values: Sequence[Column], notes: list[Note]
) -> np.ndarray:
    """The rows `order` (n,), sorted by series and time, without copies of a point; notes these, and repeated times."""
    if len(order) < 2:
        return order
    same_time = (ids[order][1:] == ids[order][:-1]) & (time[order][1:] == time[order][:-1])
    grid = np.stack([column.values[order] for column in values], 1)
    equal = ((grid[1:] == grid[:-1]) | (np.isnan(grid[1:]) & np.isnan(grid[:-1]))).all(1)
    copies = np.append(False, same_time & equal)
    if copies.any():
        message = f"{pluralize(int(copies.sum()), 'row')} with a point that their series already has, left out"
        notes.append(("copies", message))
    if count := int((same_time & ~equal).sum()):
        message = f"{pluralize(count, 'point')} at a time that their series already has, kept in file order"
        notes.append(("times", message))
    return order[~copies]


def _value_columns(table: ColumnTable, settings: DataSettings, targets: Sequence[str]) -> list[str]:
    """Names of the columns of measured values: those that are set, or else all numeric ones without another role."""
    for name in settings.values:
        if name not in table.columns:
            raise unknown_name("value column", name, table.columns)
    with_role = {*targets, settings.series, settings.time}
    free = [name for name, column in table.columns.items() if column.type == "number" and name not in with_role]
    counters = [name for name in free if name not in settings.keep and counts_rows(table.columns[name])]
    names = list(settings.values) or [name for name in free if settings.series is not None or name not in counters]
    if not names:
        raise DataError(
            f"The series have no numeric columns. The table has: {join_names(list(table.columns))}. "
            "Name the columns of measured values with --values."
        )
    if settings.series is None and not settings.values:
        note_left_out(table, counters, "it counts the rows (--keep takes it)")
    left_out = [name for name in table.columns if name not in {*with_role, *names, *counters}]
    note_left_out(table, left_out, "not a value of the series")
    return names
