"""Parquet files whose rows hold images, as data sets of Hugging Face do, or lists of numbers: a series in each row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.column_table import ColumnTable
from icecore.user_data.columns import Column
from icecore.user_data.embedded_images import EmbeddedImages
from icecore.user_data.readers.axes import find_axes
from icecore.user_data.readers.column_roles import note_left_out
from icecore.user_data.readers.source_files import ReadRequest
from icecore.user_data.records import ImageRecords, NumberNames, Records, SequenceRecords
from icecore.user_data.sequences import Sequences


def find_nested_column(request: ReadRequest, files: list[Path]) -> tuple[str, str] | None:
    """Name and kind, "image" or "list", of the column with images or series; None if there is none, or no pyarrow.

    At prediction, a program that learned from columns does not look for one.
    """
    settings = request.settings
    learned = request.predicting and any(name not in (*settings.target, settings.column) for name in request.types)
    if (
        (settings.kind == "table" and not request.predicting)
        or learned
        or any(file.suffix.lower() not in (".parquet", ".pq") for file in files)
    ):
        return None
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return None
    try:
        schema = pq.read_schema(files[0])
    except (pa.ArrowException, OSError):
        return None  # the reader of tables says what is wrong
    found = {field.name: kind for field in schema if (kind := _nested_kind(pa, field.type))}
    if settings.column is not None:
        return (settings.column, found[settings.column]) if settings.column in found else None
    # beside columns of numbers or texts, a list may be anything
    is_only_input = len(found) == 1 and len(schema) - len(found) <= 2
    return next(((n, kind) for n, kind in found.items() if kind == "image" or is_only_input), None)


def _nested_kind(pa: Any, kind: Any) -> str:
    """What a type holds: "image" for a structure with bytes, "list" for lists of numbers or of points, otherwise ""."""
    if pa.types.is_struct(kind):
        return "image" if any(kind.field(i).name == "bytes" for i in range(kind.num_fields)) else ""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return "list" if depth in (1, 2) and is_number else ""


def nested_records(
    request: ReadRequest,
    files: list[Path],
    nested: tuple[str, str],
    table: ColumnTable,
    targets: Mapping[str, Column],
    splits: np.ndarray | None,
    source: Mapping[str, Any],
) -> Records:
    """Records of the images or series in a column; the table has the other columns. Raises DataError."""
    import pyarrow.parquet as pq

    name, kind = nested
    cells: list[Any] = []
    for file in files:
        cells += pq.read_table(file, columns=[name]).column(name).to_pylist()
    cells = [cells[row] for row in table.row_numbers.tolist()]
    note_left_out(table, table.columns, f"the inputs are the {kind}s in {name!r}")
    table.notes[:] = [note for note in table.notes if not (note[0] == "dropped" and note[1].startswith(f"{name}:"))]
    names = NumberNames(table.row_numbers)
    common: dict[str, Any] = {
        "targets": targets,
        "names": names,
        "row_numbers": table.row_numbers,
        "splits": splits,
        "groups": table.groups,
        "others": table.columns,
        "source": {**source, "column": name},
        "notes": table.notes,
    }
    if kind == "image":
        raw = [(cell or {}).get("bytes") or b"" for cell in cells]
        return ImageRecords(images=EmbeddedImages(request.path, raw, request.settings.strict), **common)
    rows = [_points(name, cell) for cell in cells]
    depth = max((row.ndim for row in rows if row is not None), default=1)
    width = max((row.shape[0] for row in rows if row is not None and row.ndim > 1), default=1)
    if depth > 1:
        shape = (len(rows), width, max(row.shape[1] for row in rows if row is not None and row.ndim > 1))
        axes, axis_notes = find_axes(shape, request.settings)
        common["notes"] = [*table.notes, *axis_notes]
        common["source"] = {**common["source"], "axes": axes}
        rows = [row.T if row is not None and axes == "time-last" else row for row in rows]
    V = next((row.shape[1] for row in rows if row is not None and row.ndim > 1), 1)
    # an empty series becomes one missing point
    filled = [np.full((1, V), np.nan, np.float32) if row is None else row.reshape(len(row), -1) for row in rows]
    return SequenceRecords(sequences=Sequences.from_rows(filled), **common)


def _points(name: str, cell: Any) -> np.ndarray | None:
    """A cell with a list of numbers, or with one of points, as an array; None if it is empty. Raises DataError."""
    try:
        points = np.array([] if cell is None else cell, np.float32)
    except (TypeError, ValueError):
        raise DataError(
            f"Column {name!r} must hold lists of numbers, or lists of points with equally many numbers each."
        ) from None
    return points if points.size else None
