"""Tables in memory: data frames, and columns by name, read with the same rules as files of tables."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import join_names
from icecore.user_data.column_builder import ColumnBuilder
from icecore.user_data.column_table import ColumnTable, TableChunk, TableOptions
from icecore.user_data.columns import ColumnType, as_array, column_from_values
from icecore.user_data.data_settings import DataSettings

#: of 64 bits
LARGEST_INTEGER = 2**63 - 1


def frame_columns(X: Any) -> Mapping[str, Any] | None:
    """The columns of a data frame or a mapping, by name; None for any other value. Raises DataError for equal names.

    Frames of pandas are read as they are, those of polars and Arrow through pandas.
    """
    if isinstance(X, Mapping) and not hasattr(X, "shape"):  # a sparse matrix of SciPy may be a mapping
        return {str(name): values for name, values in X.items()}
    frame: Any = X
    if hasattr(frame, "to_pandas") and not hasattr(frame, "iloc"):
        frame = frame.to_pandas()
    if not (hasattr(frame, "columns") and hasattr(frame, "iloc")):
        return None
    names = [str(name) for name in frame.columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"The data frame has several columns named {join_names(repeated)}. Rename all but one of them.")
    return {name: frame.iloc[:, i] for i, name in enumerate(names)}


def read_frame(
    columns: Mapping[str, Any],
    settings: DataSettings,
    types: Mapping[str, ColumnType],
    formats: Mapping[str, str],
    predicting: bool,
) -> ColumnTable:
    """The columns as those of a file would be. Raises DataError for values of several types, or unequal lengths."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = join_names([f"{name} ({length:,})" for name, length in lengths.items()])
        raise DataError(f"All columns must have the same number of values, but they have: {shown}.")
    N = next(iter(lengths.values()), 0)
    cells: dict[str, Any] = {}
    known = dict(types)
    for name, values in columns.items():
        cells[name], kind = _cells(name, values)
        if kind is not None:
            known.setdefault(name, kind)
    options = TableOptions(
        types={**({settings.column: "text"} if settings.column else {}), **known},
        formats=formats,
        decimal=settings.decimal,
        dates=settings.dates,
        keep_all_texts=frozenset((settings.column,) if settings.column else ()),
        max_rows=sys.maxsize,
        strict=settings.strict,
    )
    builder = ColumnBuilder(options)
    if N:
        builder.add(TableChunk(list(columns), cells, np.arange(N)), 0, Path("data frame"))
    builder.end_file(N)
    table = builder.build("The data frame")[0]
    for name in settings.drop:
        table.columns.pop(name, None)
    return table


def _cells(name: str, values: Any) -> tuple[Any, ColumnType | None]:
    """The values of a column as cells of `TableChunk`, and their type if it is more than the cells show."""
    array = as_array(values)
    if array.dtype.kind in "biuf":
        return array, None
    if array.dtype.kind == "m":
        return array.astype("timedelta64[us]").astype(np.float64) / 1e6, None
    column = column_from_values(name, values)
    if column.type == "date":
        return column.values, "date"
    if column.type == "text":
        levels: list[str | None] = [*column.distinct_texts, None]
        return [levels[code] for code in column.values], None
    if column.origin == "float":
        return column.values, None
    missing = np.isnan(column.values)
    exact = np.zeros(len(missing), np.int64)
    labels = column.as_labels()
    if column.origin == "bool":
        exact = np.zeros(len(missing), bool)
        exact[~missing] = column.values[~missing] > 0
    else:
        numbers = [int(text) for text in labels.distinct_texts]
        if any(abs(number) > LARGEST_INTEGER for number in numbers):  # codes, which no array of numbers holds
            texts = [*labels.distinct_texts, None]
            return [texts[code] for code in labels.values], "text"
        exact[~missing] = np.array(numbers, np.int64)[labels.values[~missing]] if numbers else 0
    return np.ma.array(exact, mask=missing), None
