"""Which column of a table does what: targets, the split of each row, columns to leave out."""

import sys
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names
from icecore.user_data.column_table import DEFAULT_MAX_ROWS, ColumnTable, TableOptions
from icecore.user_data.columns import Column, ColumnType
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.readers.source_files import ReadRequest, list_data_files, notes_on_folder
from icecore.user_data.readers.table_files import TABLE_SUFFIXES, read_table
from icecore.user_data.split_names import NO_SPLIT, SPLIT_COLUMNS, read_split_setting, split_of_cell, split_of_name

#: a column with one of these names is the target unless another is set, most likely first: `y` may be a coordinate
TARGET_NAMES = ("target", "label", "labels", "class", "y", "outcome")
#: names of columns with the ids of rows, in lower case
NAME_NAMES = ("name", "names")
ID_NAMES = (*NAME_NAMES, "id", "ids", "accession", "entry", "uniprot", "identifier", "header", "key")
ID_NAMES += ("sequence_id", "seq_id", "uniprot_id", "protein_id")
#: names of columns that hold character sequences, in lower case, most likely first
TEXT_NAMES = ("sequence", "seq", "smiles", "canonical_smiles", "isomeric_smiles", "selfies", "dna", "rna", "protein")
TEXT_NAMES += ("peptide", "aa_sequence", "text", "sentence", "review", "comment", "message", "document", "content")
#: spellings of splits in one column: more are no splits
MAX_SPLIT_WORDS = 6
#: columns of text that looks like numbers which are described one by one
MAX_NUMBER_LIKE_NOTES = 5


def read_columns(
    request: ReadRequest, keep_all_texts: Sequence[str], may_sample: bool, always_numeric: Sequence[str] = ()
) -> tuple[ColumnTable, np.ndarray | None, dict[str, Any]]:
    """Read the table of a request.

    keep_all_texts  columns of which every distinct text is kept
    may_sample      a large table may be sampled: each row is an example of its own
    always_numeric  columns that hold numbers even if these have leading zeros

    Returns the table, the split (N,) of each row if file names or a column say so, and a description of the source.
    Raises DataError, and ConfigError for columns to drop that do not exist.
    """
    settings, files = request.settings, list_data_files(request, TABLE_SUFFIXES)
    # all rows to predict are needed, and all points of a series
    max_rows = (settings.max_rows or DEFAULT_MAX_ROWS) if may_sample and not request.predicting else sys.maxsize
    options = TableOptions(
        types=_known_types(request),
        formats=request.formats,
        decimal=settings.decimal,
        dates=settings.dates,
        keep_all_texts=frozenset(keep_all_texts),
        always_numeric=frozenset(always_numeric),
        max_rows=max_rows,
        seed=settings.seed,
        strict=settings.strict,
    )
    table, file_indices = read_table([path for path, _ in files], options)
    table.notes += notes_on_folder(request, [path for path, _ in files])
    for name in settings.drop:
        if table.columns.pop(name, None) is None and not request.predicting:
            raise unknown_name("column", name, table.columns)
    splits = np.array([split for _, split in files])[file_indices] if any(split for _, split in files) else None
    if not request.predicting:
        for name in settings.keep:
            if name not in table.columns:
                raise unknown_name("column", name, table.columns)
    splits = take_split_column(request, table, splits)
    table.groups = None if request.predicting else take_group(settings, table)
    if not request.predicting:  # otherwise the types of all columns that matter are known
        _note_number_like(request, table)
    source_formats = {name: form for name, form in table.formats.items() if name in table.columns}
    file_format = files[0][0].name.lower().removesuffix(".gz").rpartition(".")[2]
    source = {"format": file_format, "files": [path.name for path, _ in files], "formats": source_formats}
    return table, splits, source


def take_split_column(request: ReadRequest, table: ColumnTable, splits: np.ndarray | None) -> np.ndarray | None:
    """The split (N,) of each row by a column that says so, which is removed from the table; or else `splits`.

    Raises DataError for values of a column that the user named which are no splits, and ConfigError for an unknown one.
    """
    setting = request.settings.split
    given = None if setting is None else read_split_setting(setting)
    if setting == NO_SPLIT or request.predicting:
        return splits
    if setting is not None and given is None and setting not in table.columns:
        raise unknown_name("split column", setting, table.columns)
    usual = [setting] if given is None and setting else _columns_of_splits(request.settings, table)
    for name in usual:
        column = table.columns[name].as_labels()
        levels = column.distinct_texts
        split_of = {level: given.get(level, "") if given else split_of_cell(name, level) for level in levels}
        if levels and all(split_of.values()):
            del table.columns[name]
            table.notes.append(("splits", f"those that column {name!r} names"))
            return np.array([*(split_of[level] for level in levels), ""])[column.values]
        if name == setting:
            raise DataError(
                f"{request.path}: column {name!r} must say train, val or test, but has {join_names(levels)}. "
                f"Name the splits, for example --split {levels[0]}=train,{levels[-1]}=test"
            )
    return splits


def _columns_of_splits(settings: DataSettings, table: ColumnTable) -> list[str]:
    """Columns that may name splits: by a usual name or their cells, or truth values of `is_test` beside a known target.

    A column `is_valid` may say that a row is for validation or that it is valid, so it is taken if --split says so.
    """
    low = {name: name.strip().lower() for name in table.columns}
    usual = [name for name, each in low.items() if each in SPLIT_COLUMNS]
    has_target = bool(settings.target) or any(each in TARGET_NAMES for each in low.values())
    flags = [name for name in low if split_of_cell(name, "true") and name not in settings.target]
    flags = [name for name in flags if has_target and not low[name].endswith("valid")]
    named = [name for name, column in table.columns.items() if name not in settings.target and _names_splits(column)]
    return list(dict.fromkeys([*usual, *flags, *named]))


def _names_splits(column: Column) -> bool:
    """Whether the cells of a column with any name say train, and val or test."""
    if column.type != "text" or not 1 < len(column.distinct_texts) <= MAX_SPLIT_WORDS:
        return False
    found = {split_of_name(text) for text in column.distinct_texts}
    return "" not in found and "train" in found and len(found) > 1


def take_group(settings: DataSettings, table: ColumnTable) -> np.ndarray | None:
    """The code (N,) of each row's group; a row without one is a group of its own. The column is removed, as an id."""
    name = settings.group
    if name is None:
        return None
    if name not in table.columns:
        raise unknown_name("group column", name, table.columns)
    codes = table.columns[name].as_labels().values
    if name != settings.series:
        del table.columns[name]
    return np.where(codes < 0, -1 - np.arange(len(codes)), codes)


def _known_types(request: ReadRequest) -> dict[str, ColumnType]:
    """The types of columns before the table is read: names and texts are texts, byte for byte.

    The measured values of new rows are numbers, although a few rows may not show it.
    """
    settings = request.settings
    texts: dict[str, ColumnType] = {
        name: "text" for name in (settings.column, settings.series, settings.group) if name is not None
    }
    numbers: dict[str, ColumnType] = dict.fromkeys(settings.values if request.predicting else (), "number")
    return {**texts, **numbers, **request.types}


def target_names(request: ReadRequest, table: ColumnTable) -> tuple[str, ...]:
    """Names of the target columns: those that are set, or else one with a usual name, or else the last column."""
    settings, columns = request.settings, table.columns
    if settings.target:
        if not request.predicting and (absent := [name for name in settings.target if name not in columns]):
            raise unknown_name("target column", absent[0], columns)
        return tuple(name for name in settings.target if name in columns)
    if request.predicting:
        return ()
    usual = sorted((TARGET_NAMES.index(low), name) for name in columns if (low := name.strip().lower()) in TARGET_NAMES)
    # a column of texts or of ids is no target, wherever it stands
    likely = [name for name in columns if name.strip().lower() not in (*TEXT_NAMES, *ID_NAMES)]
    name = usual[0][1] if usual else (likely or list(columns))[-1]
    last = "the last column" if name == list(columns)[-1] else "the last one that is no text or id"
    reason = "because of its name" if usual else last
    table.notes.append(("target", f"{name!r}, {reason} (--target sets another)"))
    return (name,)


def note_left_out(table: ColumnTable, names: Collection[str], reason: str) -> None:
    """Note that these columns are not used."""
    if names:
        table.notes.append(("left out", f"{join_names(list(names))}: {reason}"))


def _note_number_like(request: ReadRequest, table: ColumnTable) -> None:
    """Note the text columns that may have been meant as numbers. Raises DataError for them if strict."""
    known_text = (request.settings.column, request.settings.series)
    columns = [c for c in table.columns.values() if c.number_hint and c.name not in known_text]
    if columns and request.settings.strict:
        raise DataError(
            f"{request.path}: column {columns[0].name!r} is not numeric: {columns[0].number_hint}. "
            "Write these cells as plain numbers, drop the column with --drop, or leave out --strict to read it as text."
        )
    for column in columns[:MAX_NUMBER_LIKE_NOTES]:
        message = f"{column.name} is read as text: {column.number_hint}"
        table.notes.append(("not numbers", f"{message} (write these as plain numbers; --strict refuses them)"))
    if more := [column.name for column in columns[MAX_NUMBER_LIKE_NOTES:]]:
        table.notes.append(("not numbers", f"{join_names(more)}: read as text, though most cells look like numbers"))
