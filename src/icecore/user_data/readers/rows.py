"""Readers of tables: rows as examples, or as time series, a row a series (wide) or a row a point (long).

Here the roles of columns are found out: target, split, the one column of character sequences or image files.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.user_data.columns import ColumnTable
from icecore.user_data.readers.images import SUFFIXES, ImageFiles
from icecore.user_data.readers.source import ReadRequest, parts
from icecore.user_data.readers.tables import FORMATS, read_table
from icecore.user_data.records import SPLIT_NAMES, Column, DataSettings, RawRows, RowNumbers, Sequences, listed

#: names of a column that is the target unless another is named, the likeliest first: `y` may be a coordinate
TARGET_NAMES = ("target", "label", "labels", "class", "y", "outcome")
#: columns of doubtful texts that are told one by one
MOST_DOUBTS = 5
#: names of images looked for, to find their folder
TRIED = 100


def _table(
    request: ReadRequest, whole: Sequence[str], sampled: bool, numeric: Sequence[str] = ()
) -> tuple[ColumnTable, np.ndarray | None, dict[str, Any]]:
    """The table, the split of each row where files or a column say so, and what was read."""
    settings, files = request.settings, parts(request, tuple(FORMATS))
    table, places = read_table(
        [path for path, _ in files],
        types=request.types,
        whole=whole,
        # rows to predict, and points of a series, are all wanted
        max_rows=settings.max_rows if sampled and not request.predicting else sys.maxsize,
        seed=settings.seed,
        strict=settings.strict,
        numeric=numeric,
    )
    for name in settings.drop:
        if table.columns.pop(name, None) is None and not request.predicting:
            raise unknown_name("column", name, table.columns)
    splits = np.array([split for _, split in files])[places] if any(split for _, split in files) else None
    named = table.columns.get("split")
    if named is not None and named.levels and all(level.lower() in SPLIT_NAMES for level in named.levels):
        lookup = np.array([*(SPLIT_NAMES[level.lower()] for level in named.levels), ""])
        splits = lookup[table.columns.pop("split").values]
    if not request.predicting:  # then the columns that matter are of a known type
        _doubts(request, table)
    source = {"format": files[0][0].name.lower().removesuffix(".gz").rpartition(".")[2]}
    return table, splits, source | {"files": [path.name for path, _ in files]}


def _doubts(request: ReadRequest, table: ColumnTable) -> None:
    """Note texts that were perhaps meant as numbers; with `strict` refuse them."""
    asked = (request.settings.column, request.settings.series)
    found = [f"{c.name}: {c.doubt}" for c in table.columns.values() if c.doubt and c.name not in asked]
    if found and request.settings.strict:
        remedy = "mend these cells, --drop the column, or leave --strict out to read it as text"
        raise DataError(f"{request.path}: {listed(found, 1)}: {remedy}")
    remedy = "mend these, or it is text: categories, or left out (--strict refuses)"
    table.notes += [("not numbers", f"{each}: {remedy}") for each in found[:MOST_DOUBTS]]
    if more := [each.partition(":")[0] for each in found[MOST_DOUBTS:]]:
        table.notes.append(("not numbers", f"{listed(more)} neither, though they look it"))


def _target_names(request: ReadRequest, table: ColumnTable) -> tuple[str, ...]:
    """The target columns: those named, else one of a usual name, else the last."""
    settings, columns = request.settings, table.columns
    if settings.target:
        if not request.predicting and (absent := [name for name in settings.target if name not in columns]):
            raise unknown_name("target column", absent[0], columns)
        return tuple(name for name in settings.target if name in columns)
    if request.predicting:
        return ()
    usual = sorted((TARGET_NAMES.index(low), name) for name in columns if (low := name.strip().lower()) in TARGET_NAMES)
    name = usual[0][1] if usual else list(columns)[-1]
    table.notes.append(
        ("target", f"{name!r}, {'by its name' if usual else 'the last column'} (--target names another)")
    )
    return (name,)


def label_columns(request: ReadRequest) -> dict[str, Column]:
    """The target columns of a table of labels, whose rows are the examples that lie beside it, in order."""
    table, _, _ = _table(request, request.settings.target, sampled=False)
    return {name: table.target(name) for name in _target_names(request, table)}


def read_rows(request: ReadRequest) -> RawRows:
    """A table whose rows are examples: columns as tokens, or one column of character sequences, or of image files."""
    settings = request.settings
    whole = [*settings.target, *([settings.column] if settings.column else [])]
    table, splits, source = _table(request, whole, sampled=True)
    images = _images(request, table)
    names = _target_names(request, table)
    targets = {name: table.target(name) for name in names}
    for name in names:
        del table.columns[name]
    if images is not None:
        _note_left(table, table.columns, "the tokens are the images")
        return RawRows("images", images, targets, images.names, splits, source, table.notes)
    column = settings.column or (None if request.types or request.predicting else _only_text(table))
    rows = RowNumbers(table.numbers)
    if column is None:
        if not table.columns:
            raise DataError(f"{request.path}: has no columns beside the target {listed(names)}")
        return RawRows("table", table.columns, targets, rows, splits, source, table.notes)
    held = table.columns.get(column)
    if held is None:
        raise unknown_name("sequence column", column, table.columns)
    held = replace(held, values=held.values.astype(np.float64)).labelled() if held.type != "text" else held
    if held.levels is None:
        raise DataError(f"{request.path}: column {column!r} has too many texts to guess at; name it: --column {column}")
    _note_left(
        table, [name for name in table.columns if name != column], f"the tokens are the characters of {column!r}"
    )
    return RawRows("strings", _texts(held), targets, rows, splits, source | {"column": column}, table.notes)


def _texts(column: Column) -> list[str]:
    """The text of each row, empty where missing."""
    levels = [*column.texts, ""]
    return [levels[code] for code in column.values]


def _note_left(table: ColumnTable, names: Collection[str], why: str) -> None:
    if names:
        table.notes.append(("left out", f"{listed(list(names))}: {why}"))


def _images(request: ReadRequest, table: ColumnTable) -> ImageFiles | None:
    """The images that a column names, taken out of the table; None where there is no such column.

    They lie in the table's folder, or in a folder in it. Raises DataError where none does.
    """
    settings, columns = request.settings, table.columns
    named = [columns[settings.column]] if settings.column in columns else columns.values()
    column = next((c for c in named if c.texts and all(text.lower().endswith(SUFFIXES) for text in c.texts)), None)
    if settings.kind not in ("auto", "images") or column is None:
        return None
    base = request.path if request.path.is_dir() else request.path.parent
    tried = column.texts[:TRIED]
    there = {
        root: sum((root / name).is_file() for name in tried)
        for root in (base, *sorted(child for child in base.iterdir() if child.is_dir()))
    }
    root = max(there, key=lambda root: there[root])
    if not there[root]:
        raise DataError(
            f"{request.path}: column {column.name!r} names images, say {tried[0]}, but they lie neither in {base} "
            f"nor in a folder in it; put them there, or leave the column out: --drop {column.name!r}"
        )
    del columns[column.name]
    table.notes.append(("images", f"those that {column.name!r} names, in {root}"))
    return ImageFiles(root, _texts(column), settings.strict)


def _only_text(table: ColumnTable) -> str | None:
    """The column of nearly as many texts as rows, the longest, in a table that has nothing else but perhaps an id."""
    many = max(20, len(table.numbers) // 2)
    texts = [c for c in table.columns.values() if c.type == "text" and (c.levels is None or len(c.levels) > many)]
    others = table.columns.keys() - {column.name for column in texts}
    if not texts or any(name.lower() != "id" for name in others):
        return None
    return max(texts, key=lambda column: sum(map(len, column.texts[:1000])) if column.texts else sys.maxsize).name


def read_series(request: ReadRequest) -> RawRows:
    """A table of time series: long (a row a point, where a column names the series) or wide (a row a series)."""
    settings = request.settings
    whole = [*settings.target, *([settings.series] if settings.series else [])]
    numeric = [*settings.values, *([settings.time] if settings.time else [])]
    table, splits, source = _table(request, whole, sampled=False, numeric=numeric)
    targets = _target_names(request, table)
    table.columns |= {name: table.target(name) for name in targets}
    build = wide_series if settings.series is None else long_series
    return build(table, targets, splits, settings, source)


def wide_series(
    table: ColumnTable,
    targets: Sequence[str],
    splits: np.ndarray | None,
    settings: DataSettings,
    source: Mapping[str, Any],
) -> RawRows:
    """One series a row: its numeric columns (or `values`), in the table's order, are points in time."""
    names = _values(table, settings, targets)
    grid = np.stack([table.columns[name].values for name in names], 1).astype(np.float32)
    T = grid.shape[1]
    lengths = T - (np.isfinite(grid)[:, ::-1].argmax(1))
    lengths[~np.isfinite(grid).any(1)] = 1  # one missing point says as much
    points = grid[np.arange(T) < lengths[:, None]][:, None]
    held = {name: table.columns[name] for name in targets}
    rows = RowNumbers(table.numbers)
    return RawRows(
        "sequences", Sequences(points, lengths), held, rows, splits, {**source, "values": tuple(names)}, table.notes
    )


def long_series(
    table: ColumnTable,
    targets: Sequence[str],
    splits: np.ndarray | None,
    settings: DataSettings,
    source: Mapping[str, Any],
) -> RawRows:
    """One point a row: rows of one `series` in order of `time` (or of the file) form a sequence of `values`.

    Raises DataError where the target changes within a series, and ConfigError for columns that do not exist.
    """
    for name in (settings.series, settings.time):
        if name is not None and name not in table.columns:
            raise unknown_name("column", name, table.columns)
    ids = table.columns[settings.series or ""].labelled()
    if settings.time and table.columns[settings.time].type == "text":
        raise DataError(f"column {settings.time!r} is text; expected numbers or ISO dates to order the points by")
    time = table.columns[settings.time].values if settings.time else table.numbers
    names = _values(table, settings, targets)
    kept = ids.values >= 0
    order = np.flatnonzero(kept)[np.lexsort((time[kept], ids.values[kept]))]
    distinct, first, lengths = np.unique(ids.values[order], return_index=True, return_counts=True)
    points = np.stack([table.columns[name].values[order] for name in names], 1).astype(np.float32)
    starts = order[first]
    held: dict[str, Column] = {}
    for name in targets:
        column = table.columns[name]
        values = column.values[order]
        changed = (values != np.repeat(column.values[starts], lengths)) & (values == values)
        if changed.any():
            place = np.searchsorted(first, changed.argmax(), "right") - 1
            raise DataError(
                f"{listed(source['files'])}: target {name!r} changes within series "
                f"{ids.texts[int(distinct[place])]!r}; expected one value a series; or name another --target"
            )
        held[name] = column.rows(starts)
    levels = ids.texts
    names_of = [levels[code] for code in distinct.tolist()]
    splits = None if splits is None else splits[starts]
    return RawRows(
        "sequences", Sequences(points, lengths), held, names_of, splits, {**source, "values": tuple(names)}, table.notes
    )


def _values(table: ColumnTable, settings: DataSettings, targets: Sequence[str]) -> list[str]:
    """The columns of measured values: those named, else all that are numeric and nothing else."""
    for name in settings.values:
        if name not in table.columns:
            raise unknown_name("value column", name, table.columns)
    apart = {*targets, settings.series, settings.time}
    names = list(settings.values) or [
        name for name, column in table.columns.items() if column.type == "number" and name not in apart
    ]
    if not names:
        raise DataError(f"the series have no numeric columns; found {listed(list(table.columns))}")
    _note_left(table, [name for name in table.columns if name not in {*apart, *names}], "no values of the series")
    return names
