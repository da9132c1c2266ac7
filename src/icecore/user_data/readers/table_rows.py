"""Tables whose rows are examples: columns as inputs, or one column that holds character sequences or image names."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names
from icecore.user_data.column_table import ColumnTable, exact_codes
from icecore.user_data.columns import Column
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.readers.column_roles import (
    ID_NAMES,
    NAME_NAMES,
    TEXT_NAMES,
    note_left_out,
    read_columns,
    target_names,
)
from icecore.user_data.readers.named_images import splits_of_folders, take_images
from icecore.user_data.readers.nested_columns import find_nested_column, nested_records
from icecore.user_data.readers.source_files import ReadRequest, list_data_files
from icecore.user_data.readers.table_files import TABLE_SUFFIXES
from icecore.user_data.records import ImageRecords, NumberNames, Records, TableRecords, TextRecords
from icecore.user_data.row_counters import counts_rows


def read_table_rows(request: ReadRequest) -> Records:
    """Read a table whose rows are examples: of columns, of texts in one column, or of the images it names.

    Raises DataError, and ConfigError for columns that do not exist.
    """
    settings = request.settings
    keep_all_texts = [*settings.target, *([settings.column] if settings.column else [])]
    table, splits, source = read_columns(request, keep_all_texts, may_sample=True)
    files = [path for path, _ in list_data_files(request, TABLE_SUFFIXES)]
    nested = find_nested_column(request, files)
    images = take_images(request, table) if nested is None else None
    names = target_names(request, table)
    targets = {name: table.target(name) for name in names}
    for name in names:
        del table.columns[name]
    if nested is not None:
        return nested_records(request, files, nested, table, targets, splits, source)
    if images is not None:
        note_left_out(table, table.columns, "the inputs are the images")
        splits = splits if splits is not None else splits_of_folders(images.names, settings)
        return ImageRecords(
            images=images,
            targets=targets,
            names=images.names,
            row_numbers=table.row_numbers,
            splits=splits,
            groups=table.groups,
            others=table.columns,
            source=source,
            notes=table.notes,
        )
    find_text = not request.types and not request.predicting
    return build_records(str(request.path), table, targets, settings, find_text, splits, source)


def build_records(
    source_name: str,
    table: ColumnTable,
    targets: Mapping[str, Column],
    settings: DataSettings,
    find_text: bool,
    splits: np.ndarray | None = None,
    source: Mapping[str, Any] | None = None,
) -> Records:
    """Records of the rows of a table without its targets: of columns, or of the texts in one column.

    find_text  a column of texts is looked for, unless the settings name one, and codes of many digits are made texts

    Raises DataError if no column is left, and ConfigError for a column that does not exist.
    """
    row_names, source = NumberNames(table.row_numbers), dict(source or {})
    text_column = settings.column or (_find_text_column(table) if find_text else None)
    if text_column is None:
        if not table.columns:
            raise DataError(
                f"{source_name} has no columns to learn from beside the target {join_names(list(targets))}."
            )
        # new rows are read by the types of training
        columns, code_notes = exact_codes(table.columns) if find_text else (table.columns, [])
        table.notes += code_notes
        return TableRecords(
            columns=columns,
            targets=targets,
            names=row_names,
            row_numbers=table.row_numbers,
            splits=splits,
            groups=table.groups,
            source=source,
            notes=table.notes,
        )
    texts = _texts_of_column(source_name, table, text_column)
    source["column"] = text_column
    return TextRecords(
        texts=texts,
        targets=targets,
        names=row_names,
        row_numbers=table.row_numbers,
        splits=splits,
        groups=table.groups,
        others={name: column for name, column in table.columns.items() if name != text_column},
        source=source,
        notes=table.notes,
    )


def _texts_of_column(source_name: str, table: ColumnTable, name: str) -> list[str]:
    """The texts of the column that holds character sequences; notes that the others are not used."""
    # in a sequence of characters, "NA" and "-" are characters
    column = table.unfiltered.get(name, table.columns.get(name))
    if column is None:
        raise unknown_name("sequence column", name, table.columns)
    if column.type != "text":
        column = column.as_labels()
    if column.levels is None:
        raise DataError(
            f"{source_name}: column {name!r} has too many different texts to be chosen automatically. "
            f"Name it: --column {name}"
        )
    others = [other for other in table.columns if other != name]
    note_left_out(table, others, f"the inputs are the characters of {name!r}")
    return column.row_texts()


def _is_id(name: str) -> bool:
    """Whether a column has a usual name of ids. Names may be what is learned from, if there is nothing else."""
    return name.strip().lower() in ID_NAMES and name.strip().lower() not in NAME_NAMES


def _find_text_column(table: ColumnTable) -> str | None:
    """The column of character sequences, if the table has only columns of nearly unique texts, and perhaps an id.

    A usual name decides, or else the longest texts. Notes which it is.
    """
    many = max(20, len(table.row_numbers) // 2)
    texts = [c for c in table.columns.values() if c.type == "text" and (c.levels is None or len(c.levels) > many)]
    # numbers in another form are no texts to learn, and the letters of an id mean nothing
    texts = [column for column in texts if not column.number_hint and not _is_id(column.name)]
    others = table.columns.keys() - {column.name for column in texts}
    if not texts or any(name.lower() not in ID_NAMES and not counts_rows(table.columns[name]) for name in others):
        return None
    named = [column.name for low in TEXT_NAMES for column in texts if column.name.strip().lower() == low]
    if named:
        table.notes.append(("texts", f"those of column {named[0]!r}, because of its name (--column sets another)"))
        return named[0]

    def size(column: Column) -> int:
        return sum(map(len, column.distinct_texts[:1000])) if column.distinct_texts else sys.maxsize

    longest = max(texts, key=size).name
    reason = "the longest ones" if len(texts) > 1 else "the only ones"
    table.notes.append(("texts", f"those of column {longest!r}, {reason} (--column sets another)"))
    return longest
