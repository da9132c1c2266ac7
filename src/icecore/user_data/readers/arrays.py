"""Arrays as records: NumPy files, and arrays, lists and texts in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names
from icecore.user_data.array_images import ArrayImages
from icecore.user_data.column_table import exact_codes, target_column
from icecore.user_data.columns import Column, ColumnType, as_array, column_from_values, exact_integers
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.notes import Note
from icecore.user_data.readers.axes import find_axes
from icecore.user_data.readers.column_roles import take_group, take_split_column
from icecore.user_data.readers.frames import frame_columns, read_frame
from icecore.user_data.readers.labels import find_label_table, read_labels_in_order
from icecore.user_data.readers.named_arrays import INPUT_ARRAYS, ArrayName, load_parts
from icecore.user_data.readers.source_files import ReadRequest
from icecore.user_data.readers.table_rows import build_records
from icecore.user_data.records import ImageRecords, NumberNames, Records, SequenceRecords, TableRecords, TextRecords
from icecore.user_data.sequences import Sequences
from icecore.user_data.split_names import NO_SPLIT

ARRAY_SUFFIXES = (".npy", ".npz")


def read_array(request: ReadRequest) -> Records:
    """Read `.npz` with X and y (or x_train, y_train, x_test, ...), or `.npy` with targets in a file beside it.

    Raises DataError if a file cannot be read, or inputs or targets are missing, ConfigError for an unknown target.
    """
    path = _find_inputs(request.path)
    parts, notes = load_parts(path, request.settings, request.predicting)
    label_table = find_label_table(path) if len(parts) == 1 and parts[0].y is None else None
    if label_table is None and not request.predicting:
        for split, _, y in parts:
            if y is None:
                raise DataError(
                    f"{path} has inputs{f' of {split}' if split else ''} but no targets. Add an array "
                    f"y{f'_{split}' if split else ''} with np.savez(path, X=X, y=y), or put y.npy or labels.csv "
                    "beside a .npy file."
                )
    _check_types(path, [part.X for part in parts])
    X = _concatenate(path, [part.X for part in parts])
    ys = [part.y for part in parts if part.y is not None]
    y = _concatenate(path, ys) if len(ys) == len(parts) else None
    splits = np.concatenate([np.full(len(X), split, "U5") for split, X, _ in parts]) if len(parts) > 1 else None
    if request.settings.split == NO_SPLIT:
        splits = None
    source = {"format": path.suffix.lower()[1:], "files": [path.name]}
    records = array_records(X, y, request.settings, request.types, request.formats, request.predicting)
    records = replace(records, splits=splits, source={**records.source, **source}, notes=[*notes, *records.notes])
    return records if label_table is None else _add_labels(records, request._replace(path=label_table))


def _find_inputs(path: Path) -> Path:
    """The `.npy` file of a folder that holds inputs, those for training first; any other path as it is."""
    if not path.is_dir():
        return path
    files = {file: ArrayName.read(file.stem) for file in sorted(path.glob("*.npy"))}
    inputs = [file for file, name in files.items() if name.base.startswith(INPUT_ARRAYS)]
    return min(inputs, key=lambda file: (files[file].split not in ("", "train"), file.name), default=path)


def _concatenate(path: Path, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays of all splits as one. Raises DataError if their shapes differ."""
    shapes = [part.shape for part in parts]
    if any(not shape for shape in shapes) or len({shape[1:] for shape in shapes}) > 1:
        shown = join_names([str(shape) for shape in shapes])
        raise DataError(f"{path} must hold arrays of rows with one shape in all splits, but they have shapes {shown}.")
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _check_types(path: Path, parts: Sequence[np.ndarray]) -> None:
    """Raise DataError for bytes in one split and numbers in another, which would not mean the same."""
    if len({part.dtype if part.dtype == np.uint8 else part.dtype.kind in "US" for part in parts}) > 1:
        shown = join_names([str(part.dtype) for part in parts])
        raise DataError(f"{path} must hold inputs of one type in all splits, but they have the types {shown}.")


def _add_labels(records: Records, request: ReadRequest) -> Records:
    """The records with the targets of a table that has one row for each of them. Raises DataError."""
    targets, notes = read_labels_in_order(request)
    for column in targets.values():
        if len(column.values) != len(records):
            raise DataError(
                f"{request.path} must have {len(records):,} rows, one for each row of the array, "
                f"but has {len(column.values):,}."
            )
    return replace(records, targets=targets, notes=[*records.notes, *notes])


def array_records(
    X: Any,
    y: Any,
    settings: DataSettings,
    types: Mapping[str, ColumnType] | None = None,
    formats: Mapping[str, str] | None = None,
    predicting: bool = False,
) -> Records:
    """Records of arrays in memory.

    X        (N, columns), (N, T, V), images (N, H, W, C), a list of N arrays (T,) or (T, V), a list of N texts, a data
             frame, or a mapping of names to columns (N,)
    y        (N,) or (N, targets), or None
    types, formats, predicting  see `ReadRequest`; they matter for columns with names

    Raises DataError for other shapes, and if X and y have different numbers of rows, ConfigError for unknown columns.
    """
    columns = frame_columns(X)
    if columns is None and isinstance(X, np.ndarray) and X.ndim == 2 and _has_texts(X):
        columns = {f"x{i}": X[:, i] for i in range(X.shape[1])}
    if columns is not None:
        return _frame_records(columns, y, settings, types or {}, formats or {}, predicting)
    N = len(X)
    targets, notes = ({}, []) if y is None else _target_columns(y, N, settings)
    names = NumberNames(np.arange(N))
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OUS":
        if X.dtype.kind not in "buif":
            raise DataError(f"The inputs must be real numbers, but have type {X.dtype}.")
        if X.ndim == 2 and settings.kind != "series":
            columns, code_notes = _numbered_columns(X, settings, types or {}, predicting)
            return TableRecords(columns=columns, targets=targets, names=names, notes=[*notes, *code_notes])
        if X.ndim == 4 or (X.ndim == 3 and settings.kind == "images"):
            images = ArrayImages(X)
            return ImageRecords(images=images, targets=targets, names=names, notes=[*notes, *images.notes])
        if X.ndim not in (2, 3):
            raise DataError(
                f"The inputs must have shape (N, columns), (N, T, V) or (N, H, W, C), but have shape {X.shape}."
            )
    elif N and all(isinstance(row, str) for row in X):
        return TextRecords(texts=[str(row) for row in X], targets=targets, names=names, notes=notes)
    source: dict[str, Any] = {}
    shape = X.shape if isinstance(X, np.ndarray) and X.ndim == 3 else _shape_of_list(X)
    if shape is not None:
        axes, axis_notes = find_axes(shape, settings)
        if axes == "time-last":
            X = X.swapaxes(1, 2) if isinstance(X, np.ndarray) and X.ndim == 3 else [np.asarray(row).T for row in X]
        notes, source = [*notes, *axis_notes], {"axes": axes}
    return SequenceRecords(sequences=Sequences.from_rows(X), targets=targets, names=names, source=source, notes=notes)


def _numbered_columns(
    X: np.ndarray, settings: DataSettings, types: Mapping[str, ColumnType], predicting: bool
) -> tuple[dict[str, Column], list[Note]]:
    """The columns of an array (N, columns) by their numbers, and a note of codes. Raises ConfigError."""
    columns = {f"x{i}": _number_column(f"x{i}", X[:, i]) for i in range(X.shape[1])}
    for name in settings.drop:
        if columns.pop(name, None) is None and not predicting:
            raise unknown_name("column", name, columns)
    if not predicting:
        return exact_codes(columns)
    texts = {name for name, kind in types.items() if kind == "text"}
    return {name: column.as_labels() if name in texts else column for name, column in columns.items()}, []


def _number_column(name: str, values: np.ndarray) -> Column:
    written = exact_integers(name, values) if values.dtype.kind in "iu" else None
    return Column(name, "number", values, as_written=written)


def _has_texts(X: np.ndarray) -> bool:
    return X.dtype.kind in "US" or (X.dtype.kind == "O" and any(isinstance(item, str) for item in X.flat))


def _frame_records(
    columns: Mapping[str, Any],
    y: Any,
    settings: DataSettings,
    types: Mapping[str, ColumnType],
    formats: Mapping[str, str],
    predicting: bool,
) -> Records:
    """Records of columns with names; without `y`, the target is the column that the settings name, if it is there."""
    table = read_frame(columns, settings, types, formats, predicting)
    N, notes = len(table.row_numbers), list[Note]()
    if y is not None:
        targets, notes = _target_columns(y, N, settings)
        table.columns = {name: column for name, column in table.columns.items() if name not in targets}
    else:
        if not predicting and (absent := [name for name in settings.target if name not in table.columns]):
            raise unknown_name("target column", absent[0], table.columns)
        targets = {name: table.target(name) for name in settings.target if name in table.columns}
        table.columns = {name: column for name, column in table.columns.items() if name not in targets}
    request = ReadRequest(Path("The data frame"), settings, types, predicting)
    splits = take_split_column(request, table, None)
    if not predicting and settings.group is not None:
        table.groups = take_group(settings, table)
    table.notes += notes
    source = {"formats": {name: form for name, form in table.formats.items() if name in table.columns}}
    return build_records("The data frame", table, targets, settings, not predicting, splits, source)


def _shape_of_list(X: Any) -> tuple[int, int, int] | None:
    """(N, longest second axis, longest last axis) of a list of arrays (T, V) or (V, T); None for anything else."""
    try:
        shapes = [np.shape(row) for row in X]
    except ValueError:  # rows that are no arrays are refused where they are read
        return None
    if not shapes or any(len(shape) != 2 for shape in shapes):
        return None
    return len(shapes), max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)


def _target_columns(y: Any, N: int, settings: DataSettings) -> tuple[dict[str, Column], list[Note]]:
    """Columns of targets (N,) or (N, targets), named as in the settings, or else y; or y0, y1, ... Raises DataError."""
    array = as_array(y)
    if len(array) != N or array.ndim not in (1, 2):
        raise DataError(f"There must be one target for each of the {N} rows, but the targets have shape {array.shape}.")
    values = array[:, None] if array.ndim == 1 else array
    names = settings.target if len(settings.target) == values.shape[1] else ()
    names = names or tuple("y" if array.ndim == 1 else f"y{i}" for i in range(values.shape[1]))
    targets: dict[str, Column] = {}
    notes: list[Note] = []
    for i, name in enumerate(names):
        # a list may hold numbers beside texts, which an array would make texts
        column = column_from_values(name, y if isinstance(y, list | tuple) and array.ndim == 1 else values[:, i])
        targets[name], column_notes = target_column(column)
        notes += column_notes
    return targets, notes
