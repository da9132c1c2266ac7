"""Arrays as records: NumPy files, and arrays, lists and texts in memory."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.tasks.data_files import find_first
from icecore.user_data.columns import target_of
from icecore.user_data.readers.rows import label_columns
from icecore.user_data.readers.source import ReadRequest, labels_beside
from icecore.user_data.records import Column, DataSettings, RawRows, RowNumbers, Sequences, column_of, listed

_INPUTS = ("x", "data", "inputs", "images", "series")
_TARGETS = ("y", "target", "targets", "label", "labels")


def read_array(request: ReadRequest) -> RawRows:
    """`.npz` with X and y (or x_train, y_train, x_test, ...), or `.npy` with a `.npy` or table of targets beside it."""
    path = request.path
    if path.is_dir():
        path = next((file for file in sorted(path.glob("*.npy")) if file.stem.lower().startswith(_INPUTS)), path)
    try:
        if path.suffix.lower() == ".npz":
            # opened here: of a damaged one `load` would leave the file open
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name.lower(): stored[name] for name in stored.files}
        else:
            arrays = {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
            beside = [f"{path.stem}_y.npy", f"{path.stem}.y.npy", "y.npy", "labels.npy", "targets.npy"]
            if (found := find_first([path.parent], [name for name in beside if name != path.name])) is not None:
                arrays["y"] = np.load(found, allow_pickle=False)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        remedy = "save it as numbers or fixed-length texts" if "pickle" in str(error) else "fetch or copy it again"
        raise DataError(f"{path}: cannot be read as an array ({error}); {remedy}") from error
    source = {"format": path.suffix.lower()[1:], "files": [path.name]}
    labels = labels_beside(path) if arrays.keys() == {"x"} else None
    sets = []
    for split in ("", "train", "val", "test"):
        ending = f"_{split}" if split else ""
        X = next((arrays[f"{name}{ending}"] for name in _INPUTS if f"{name}{ending}" in arrays), None)
        y = next((arrays[f"{name}{ending}"] for name in _TARGETS if f"{name}{ending}" in arrays), None)
        if X is not None:
            if y is None and labels is None and not request.predicting:
                raise DataError(
                    f"{path}: found inputs but no targets; add them as y{ending} "
                    f"(np.savez(path, X=X, y=y)), or as y.npy or labels.csv beside a .npy"
                )
            sets.append((split, X, y))
    if not sets:
        raise DataError(f"{path}: found arrays {listed(sorted(arrays))}; expected X and y")
    X = _joined(path, [X for _, X, _ in sets])
    ys = [y for _, _, y in sets if y is not None]
    y = _joined(path, ys) if len(ys) == len(sets) else None
    splits = np.concatenate([np.full(len(X), split, "U5") for split, X, _ in sets]) if len(sets) > 1 else None
    records = replace(array_records(X, y, request.settings), splits=splits, source=source)
    return records if labels is None else _labelled(records, request._replace(path=labels))


def _joined(path: Path, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays of all splits as one. Raises DataError."""
    shapes = [part.shape for part in parts]
    if any(not shape for shape in shapes) or len({shape[1:] for shape in shapes}) > 1:
        found = listed([str(shape) for shape in shapes])
        raise DataError(f"{path}: expected arrays of rows, alike in all splits, found shapes {found}")
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _labelled(records: RawRows, request: ReadRequest) -> RawRows:
    """The records with the targets of a table beside them, a row each in the same order. Raises DataError."""
    targets = label_columns(request)
    for column in targets.values():
        if len(column.values) != len(records):
            raise DataError(f"{request.path}: expected {len(records):,} rows, one each, found {len(column.values):,}")
    return replace(records, targets=targets)


def array_records(X: Any, y: Any, settings: DataSettings) -> RawRows:
    """Records of arrays: X (N, columns), (N, T, V), a list of (T, V) or (T,) arrays, or a list of texts.

    y is (N,) or (N, targets), or None. Raises DataError for other shapes and for unequal numbers of rows.
    """
    count = len(X)
    targets: dict[str, Column] = {}
    notes: list[tuple[str, str]] = []
    if y is not None:
        array = np.asarray(y)
        if len(array) != count or array.ndim not in (1, 2):
            raise DataError(f"targets: expected one for each of {count} rows, found an array of shape {array.shape}")
        columns = array[:, None] if array.ndim == 1 else array
        names = settings.target if len(settings.target) == columns.shape[1] else ()
        names = names or tuple("y" if array.ndim == 1 else f"y{i}" for i in range(columns.shape[1]))
        for i, name in enumerate(names):
            targets[name], said = target_of(column_of(name, columns[:, i]))
            notes += said
    rows = RowNumbers(np.arange(count))
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OUS":
        if X.dtype.kind not in "buif":
            raise DataError(f"inputs: expected real numbers, found {X.dtype}")
        if X.ndim == 2 and settings.kind != "series":
            columns = {f"x{i}": Column(f"x{i}", "number", X[:, i]) for i in range(X.shape[1])}
            return RawRows("table", columns, targets, rows, notes=notes)
        if X.ndim not in (2, 3):
            raise DataError(f"inputs: expected (N, columns) or (N, T, V), found shape {X.shape}; reshape them")
    elif count and all(isinstance(row, str) for row in X):
        return RawRows("strings", [str(row) for row in X], targets, rows, notes=notes)
    return RawRows("sequences", Sequences.of(X), targets, rows, notes=notes)
