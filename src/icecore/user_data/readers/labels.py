"""Labels that lie beside the examples: a table next to a file or folder, or the labels of lines of text."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names
from icecore.tasks.data_files import find_first
from icecore.user_data.cell_types import find_leading_zero, parse_number
from icecore.user_data.column_table import TableOptions, target_column
from icecore.user_data.columns import Column, ColumnType, column_from_values
from icecore.user_data.notes import Note
from icecore.user_data.readers.column_roles import ID_NAMES, TARGET_NAMES, read_columns, target_names
from icecore.user_data.readers.source_files import ReadRequest
from icecore.user_data.readers.table_files import read_table
from icecore.user_data.row_counters import CAMEL_ID_NAME, ID_NAME


def label_table_names(path: Path) -> list[str]:
    """The names that a table of labels beside a file may have."""
    stem = path.name.split(".")[0]
    return [f"{start}labels{ending}" for start in (f"{stem}.", f"{stem}_", "") for ending in (".csv", ".tsv")]


def find_label_table(path: Path) -> Path | None:
    """The table of labels beside a file, or inside or beside a folder: `NAME.labels.csv` or `labels.csv`, or .tsv."""
    return find_first([path, path.parent] if path.is_dir() else [path.parent], label_table_names(path))


def read_labels_in_order(request: ReadRequest) -> tuple[dict[str, Column], list[Note]]:
    """The target columns of a table of labels that has one row for each example, and notes.

    The rows are in the order of the examples, unless a column of ids numbers these in another order.
    """
    table, _, _ = read_columns(request, request.settings.target, may_sample=False)
    names = target_names(request, table)
    targets = {name: table.target(name) for name in names}
    others = (column for column in table.columns.values() if column.name not in names)
    numbers = next(filter(_is_order, others), None)
    if numbers is not None:
        order = np.argsort(numbers.values, kind="stable")
        targets = {name: column.select(order) for name, column in targets.items()}
        table.notes.append(("labels", f"in the order of column {numbers.name!r}"))
    return targets, table.notes


def _is_order(column: Column) -> bool:
    """Whether a column with the name of ids numbers all rows from 0 or 1, but not in their order."""
    if column.type != "number" or not (ID_NAME.fullmatch(column.name) or CAMEL_ID_NAME.fullmatch(column.name)):
        return False
    order = np.sort(column.values)
    first = order[0] if len(order) else np.nan
    is_complete = first in (0, 1) and bool((order == first + np.arange(len(order))).all())
    return is_complete and not (order == column.values).all()


class IdLabels(NamedTuple):
    """The labels of a table by id: the column they come from, and a note about its choice."""

    target: str
    label_of: Mapping[str, str]
    notes: Sequence[Note]

    def find(self, name: str) -> str | None:
        """The label of a sequence by its id, or by a part of it such as the accession in sp|P69905|HBA_HUMAN."""
        parts = [name, *name.split("|")]
        for part in (*parts, *(part.rpartition(".")[0] for part in parts)):
            if part and part in self.label_of:
                return self.label_of[part]
        return None


def read_labels_by_id(path: Path, request: ReadRequest) -> IdLabels:
    """Labels by id from a table: a column with a usual name of ids, or else the first one, and the target.

    Raises DataError for a table with one column, ConfigError for a target that is not there.
    """
    table, _ = read_table([path], TableOptions(max_rows=sys.maxsize))
    names = list(table.columns)
    if len(names) < 2:
        raise DataError(f"{path} must have the columns id and label, but has: {join_names(names)}.")
    id_name = next((name for name in names if name.strip().lower() in ID_NAMES), names[0])
    others = [name for name in names if name != id_name]
    wanted = request.settings.target[:1]
    notes: list[Note] = []
    if wanted and wanted[0] in others:
        target = wanted[0]
    elif wanted and wanted != ("label",):
        if not request.predicting:
            raise unknown_name("target column", wanted[0], others)
        return IdLabels(wanted[0], {}, [])  # another column would be scored as this one
    else:
        usual = [name for low in TARGET_NAMES for name in others if name.strip().lower() == low]
        target = (usual or others[-1:])[0]
        reason = "because of its name" if usual else "the last column"
        if len(others) > 1:
            notes.append(("target", f"{target!r} of {path.name}, {reason} (--target sets another)"))
    types: dict[str, ColumnType] = {id_name: "text", target: "text"}
    options = TableOptions(types=types, keep_all_texts=frozenset((id_name, target)), max_rows=sys.maxsize)
    table, _ = read_table([path], options)
    ids, labels = (table.unfiltered.get(name, table.columns[name]).row_texts() for name in (id_name, target))
    label_of = dict(zip(ids, labels, strict=True))
    different = {id_: "" for id_, label in zip(ids, labels, strict=True) if label_of[id_] != label}
    if different:
        message = f"{join_names(list(different), 3)} with several labels in {path.name}, so they count as unlabelled"
        notes.append(("labels", message))
    return IdLabels(target, {**label_of, **different}, notes)


def label_target(
    request: ReadRequest, labels: Sequence[str], name: str = "label"
) -> tuple[dict[str, Column], list[Note]]:
    """The target column of labels (N,), "" if missing; numeric if all are numbers. Also a note of missing labels."""
    if not any(labels):
        return {}, []
    name = request.settings.target[0] if request.settings.target else name
    column, notes = target_column(column_from_values(name, np.array(labels)))
    known_type = request.types.get(name)
    try:
        numbers = np.array([parse_number(level) for level in column.distinct_texts] + [np.nan])
    except ValueError:
        return {name: column}, notes
    is_code = np.isinf(numbers).any() or bool(find_leading_zero(column.distinct_texts))
    if known_type == "text" or (known_type is None and is_code):
        return {name: column}, notes
    origin = "float" if (numbers[:-1] % 1).any() else "int"
    number_column = Column(name, "number", numbers[column.values], (), origin)
    shown = number_column.as_labels()
    given_back = {
        text: shown.distinct_texts[code] for text, code in zip(labels, shown.values.tolist(), strict=True) if code >= 0
    }
    if any(text != label for text, label in given_back.items()):
        number_column = replace(number_column, as_written=column)
    return {name: number_column}, notes
