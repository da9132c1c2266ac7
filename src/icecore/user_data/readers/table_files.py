"""Reads tables of any size, one file or several, in one pass over each; neither file nor rows need fit in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import join_names
from icecore.user_data.column_builder import ColumnBuilder
from icecore.user_data.column_table import ColumnTable, TableChunk, TableOptions
from icecore.user_data.readers.csv_files import read_csv
from icecore.user_data.readers.excel_files import read_excel
from icecore.user_data.readers.parquet_files import read_parquet
from icecore.user_data.readers.text_files import COMPRESSED_SUFFIX

TABLE_FORMATS: Mapping[str, Callable[[Path, ColumnBuilder], Iterator[TableChunk]]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), read_csv),
    **dict.fromkeys((".parquet", ".pq"), read_parquet),
    ".xlsx": read_excel,
}
TABLE_SUFFIXES = tuple(TABLE_FORMATS)


def read_table(paths: Sequence[Path], options: TableOptions | None = None) -> tuple[ColumnTable, np.ndarray]:
    """Read the rows of all files as one table; also the index (N,) in `paths` of each row's file.

    The first file decides the columns; cells of a column that a later file lacks are missing. Raises DataError for
    files that are no tables, have no rows, or have columns that the first one lacks.
    """
    builder = ColumnBuilder(options or TableOptions())
    for file_index, path in enumerate(paths):
        read_chunks = TABLE_FORMATS.get(_suffix(path)) or _format_of_content(path)
        rows = 0
        for chunk in read_chunks(path, builder):
            builder.add(_with_partitions(chunk, path), file_index, path)
            rows = int(chunk.row_numbers[-1]) + 1
        builder.end_file(rows)
    return builder.build(join_names([str(path) for path in paths], 3))


def _format_of_content(path: Path) -> Callable[[Path, ColumnBuilder], Iterator[TableChunk]]:
    """The reader of a file whose ending says nothing, by its first bytes. Raises DataError for one that is no text."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Check the path.") from error
    if start.startswith(b"PAR1"):
        return read_parquet
    if start.startswith(b"PK\x03\x04"):
        return read_excel
    if 0 in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{path} is not a table: it is no text, and the file name must end in {', '.join(TABLE_SUFFIXES)}."
        )
    return read_csv


def _with_partitions(chunk: TableChunk, path: Path) -> TableChunk:
    """The chunk with a column for each folder such as year=2024 above its file."""
    pairs = [part.partition("=") for part in path.parent.parts if "=" in part]
    added = {name: value for name, _, value in pairs if name and name not in chunk.names}
    if not added:
        return chunk
    cells = {name: [value] * len(chunk.row_numbers) for name, value in added.items()}
    return TableChunk([*chunk.names, *added], {**chunk.cells, **cells}, chunk.row_numbers)


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(COMPRESSED_SUFFIX)).suffix
