"""Finds out what kind of data a path holds, and reads it: a table of the kinds, their file endings and readers.

Splits that the data have are kept: folders or files named train, val and test, or a column `split`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from icecore.core.archives import archive_errors
from icecore.core.errors import DataError
from icecore.core.text import join_names
from icecore.user_data.columns import ColumnType
from icecore.user_data.data_archives import ARCHIVE_SUFFIXES, iterate_files
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.image_decoding import IMAGE_SUFFIXES, is_image
from icecore.user_data.readers.arrays import ARRAY_SUFFIXES, read_array
from icecore.user_data.readers.fasta import FASTA_ENDINGS, read_fasta
from icecore.user_data.readers.image_folders import read_images
from icecore.user_data.readers.series_archives import AEON_LOADERS, is_archive, read_archive, training_file
from icecore.user_data.readers.series_tables import read_series
from icecore.user_data.readers.source_files import ReadRequest, has_ending, is_data_file
from icecore.user_data.readers.table_files import TABLE_SUFFIXES
from icecore.user_data.readers.table_rows import read_table_rows
from icecore.user_data.readers.text_lines import LINE_ENDINGS, read_lines
from icecore.user_data.records import Records


class SourceReader(NamedTuple):
    """How data of one kind are recognised and read: the endings of their file names, and a function."""

    endings: tuple[str, ...]
    read: Callable[[ReadRequest], Records]


#: what to do with files of other formats
CONVERSIONS: Mapping[str, str] = {
    **dict.fromkeys((".xls", ".ods"), "Save the sheet as .xlsx or CSV."),
    **dict.fromkeys(
        (".json", ".jsonl", ".ndjson"), "Write Parquet: pandas.read_json(path, lines=True).to_parquet(...)."
    ),
    **dict.fromkeys((".feather", ".arrow", ".orc"), "Write Parquet: pandas.read_feather(path).to_parquet(...)."),
    **dict.fromkeys((".h5", ".hdf5", ".mat"), "Save its arrays: numpy.savez('data.npz', X=X, y=y)."),
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt"), "Pickles can run code. Save arrays with numpy.savez, tables as Parquet."
    ),
}
READERS: Mapping[str, SourceReader] = {
    "images": SourceReader((*ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES), read_images),
    "table": SourceReader(TABLE_SUFFIXES, read_table_rows),
    "array": SourceReader(ARRAY_SUFFIXES, read_array),
    "fasta": SourceReader(FASTA_ENDINGS, read_fasta),
    "strings": SourceReader(LINE_ENDINGS, read_lines),
    "series": SourceReader(tuple(AEON_LOADERS), read_series),
}


def read_path(
    path: Path,
    settings: DataSettings,
    types: Mapping[str, ColumnType] | None = None,
    predicting: bool = False,
    formats: Mapping[str, str] | None = None,
) -> tuple[str, Records]:
    """Read what lies at `path`: its kind, and its rows. See `ReadRequest`. Raises DataError, ConfigError."""
    if not path.exists():
        raise DataError(f"{path} does not exist. Check the path.")
    kind = settings.kind
    if kind in ("auto", "series") and not predicting:
        path = training_file(path)
    if kind in ("auto", "series") and path.is_file() and is_archive(path):
        request = ReadRequest(path, settings, types or {}, predicting, formats or {})
        return "series", read_archive(request)
    if kind == "auto" or predicting:
        # a program that learned from an array or FASTA may be used on a table or on lines of text
        found = _find_kind(path, None if kind == "auto" else kind)
        kind = kind if kind == "series" and found == "table" else found
    if kind == "table" and settings.series is not None:
        kind = "series"
    if kind == "series" and has_ending(path.name, ARRAY_SUFFIXES):
        records = read_array(ReadRequest(path, settings, types or {}, predicting, formats or {}))
        return kind, records
    records = READERS[kind].read(ReadRequest(path, settings, types or {}, predicting, formats or {}))
    if not len(records):
        raise DataError(f"{path} has no rows, but at least one is needed.")
    return "images" if records.form == "images" else kind, records


def _find_kind(path: Path, default: str | None) -> str:
    """The kind that the file name's ending belongs to, or `default`; for a folder, the kind of most of its files."""
    if path.is_file():
        kind = next((name for name, reader in READERS.items() if has_ending(path.name, reader.endings)), default)
        if kind is None:
            known = ", ".join(ending for reader in READERS.values() for ending in reader.endings)
            if conversion := CONVERSIONS.get(path.suffix.lower()):
                raise DataError(f"{path}: icecore does not read {path.suffix} files. {conversion}")
            raise DataError(
                f"{path}: the ending of the file name does not show what kind of data this is. Set --kind table for "
                "rows of columns, --kind strings for lines of label<TAB>text, or --kind fasta; or rename the file to "
                f"end in one of {known}."
            )
        return kind
    with archive_errors(path):
        names = [file.name for file in iterate_files(path) if is_data_file(file.name)]
    if not names:
        raise DataError(
            f"{path} is empty. It should hold one folder of images per class, or tables, arrays, texts or FASTA files."
        )
    if any(is_image(name) for name in names):
        return "images"
    counts = {name: sum(has_ending(file, reader.endings) for file in names) for name, reader in READERS.items()}
    most_frequent = max(counts, key=lambda name: counts[name])
    if not counts[most_frequent]:
        raise DataError(f"{path} has only files of unknown kinds: {join_names(names, 3)}. Set --kind to read them.")
    return most_frequent
