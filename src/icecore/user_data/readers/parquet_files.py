"""Parquet files, read in chunks, row group by row group. Needs pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError, UserError
from icecore.core.limits import BYTES_PER_CELL, too_large, unpacked_limit
from icecore.core.text import join_names, reason
from icecore.user_data.column_builder import ColumnBuilder
from icecore.user_data.column_table import TableChunk

PARQUET_ROWS_PER_CHUNK = 65_536


def read_parquet(path: Path, builder: ColumnBuilder) -> Iterator[TableChunk]:
    """Yield the chunks of a Parquet file; columns of lists, structures or bytes are left out. Raises DataError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"Reading {path} needs pyarrow: pip install 'icecore[tables]'") from error
    try:
        # texts that repeat stay one text, because a small file may repeat a large one in all of its rows
        repeated = [
            f.name for f in pq.read_schema(path) if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
        ]
        with pq.ParquetFile(path, read_dictionary=repeated) as file:
            schema = file.schema_arrow
            _check_size(path, file.metadata.num_rows, len(schema))
            names = [f.name for f in schema if not pa.types.is_nested(f.type) and not _is_bytes(pa, f.type)]
            if left_out := [f.name for f in schema if f.name not in names]:
                builder.notes.append(("dropped", f"{join_names(left_out)}: lists, structures or bytes"))
            for column in schema:
                if _is_date(pa, column.type):
                    builder.types.setdefault(column.name, "date")
            first = 0
            for batch in file.iter_batches(PARQUET_ROWS_PER_CHUNK, columns=names):
                if count := batch.num_rows:
                    cells = {name: _to_cells(pa, batch.column(name)) for name in names}
                    yield TableChunk(names, cells, np.arange(first, first + count))
                    first += count
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise DataError(
            f"{path} cannot be read as Parquet ({reason(error)}). It may be damaged or incomplete: download or copy it "
            "again."
        ) from error


def _check_size(path: Path, rows: int, columns: int) -> None:
    """Raise DataError if the cells would take far more memory than the file: one number may stand for all rows."""
    limit = unpacked_limit(path.stat().st_size)
    if rows * columns * BYTES_PER_CELL > limit:
        raise too_large(path, limit)


def _is_bytes(pa: Any, kind: Any) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _is_date(pa: Any, kind: Any) -> bool:
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def _to_cells(pa: Any, column: Any) -> Any:
    """An Arrow array as numbers (n,), nan for null; dates as seconds since 1970; everything else as a list of texts."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = _to_cells(pa, column.dictionary)
        if not isinstance(values, list):
            return _to_cells(pa, column.dictionary_decode())
        return [None if code is None else values[code] for code in column.indices.to_pylist()]
    if _is_date(pa, kind):
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False) / 1e6
    is_whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if is_whole:
        # a missing value must not make floats of large integers, which may be codes
        zero = pa.scalar(False if pa.types.is_boolean(kind) else 0, kind)
        values = column.fill_null(zero).to_numpy(zero_copy_only=False)
        return (
            np.ma.array(values, mask=column.is_null().to_numpy(zero_copy_only=False)) if column.null_count else values
        )
    if pa.types.is_floating(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return column.cast(pa.string()).to_pylist()
