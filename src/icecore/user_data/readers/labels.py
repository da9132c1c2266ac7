"""Labels that lie beside the examples: a table next to a file or folder, or the labels of lines of text."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.tasks.data_files import find_first
from icecore.user_data.cell_types import find_leading_zero
from icecore.user_data.column_builder import TableOptions, target_column
from icecore.user_data.columns import Column, ColumnType, column_from_values
from icecore.user_data.notes import Note, join_names
from icecore.user_data.readers.column_roles import read_columns, target_names
from icecore.user_data.readers.source_files import ReadRequest
from icecore.user_data.readers.table_files import read_table


def find_label_table(path: Path) -> Path | None:
    """The table of labels beside a file, or inside or beside a folder: `NAME.labels.csv` or `labels.csv`, or .tsv."""
    stem = path.name.split(".")[0]
    names = [f"{start}labels{ending}" for start in (f"{stem}.", f"{stem}_", "") for ending in (".csv", ".tsv")]
    return find_first([path, path.parent] if path.is_dir() else [path.parent], names)


def read_labels_in_order(request: ReadRequest) -> dict[str, Column]:
    """The target columns of a table of labels that has one row for each example, in the same order."""
    table, _, _ = read_columns(request, request.settings.target, may_sample=False)
    return {name: table.target(name) for name in target_names(request, table)}


def read_labels_by_id(path: Path) -> dict[str, str]:
    """Label of each id from a table: columns named id and label, or else its first and second one. Raises DataError."""
    known = ("id", "label", "column1", "column2")
    types: dict[str, ColumnType] = dict.fromkeys(known, "text")
    table, _ = read_table([path], TableOptions(types=types, keep_all_texts=frozenset(known), max_rows=sys.maxsize))
    columns = list(table.columns.values())
    if len(columns) < 2:
        raise DataError(f"{path} must have the columns id and label, but has: {join_names(list(table.columns))}.")
    ids, labels = (table.columns.get(name, columns[i]).as_labels() for i, name in enumerate(("id", "label")))
    id_texts, label_texts = [*ids.distinct_texts, ""], [*labels.distinct_texts, ""]
    return {id_texts[i]: label_texts[j] for i, j in zip(ids.values, labels.values, strict=True)}


def label_target(request: ReadRequest, labels: Sequence[str]) -> tuple[dict[str, Column], list[Note]]:
    """The target column of labels (N,), "" if missing; numeric if all are numbers. Also a note of missing labels."""
    if not any(labels):
        return {}, []
    name = request.settings.target[0] if request.settings.target else "label"
    column, notes = target_column(column_from_values(name, np.array(labels)))
    known_type = request.types.get(name)
    try:
        numbers = np.array([float(level) for level in column.distinct_texts] + [np.nan])
    except ValueError:
        return {name: column}, notes
    if known_type == "text" or (known_type is None and find_leading_zero(column.distinct_texts)):
        return {name: column}, notes
    origin = "float" if (numbers[:-1] % 1).any() else "int"
    return {name: Column(name, "number", numbers[column.values], (), origin)}, notes
