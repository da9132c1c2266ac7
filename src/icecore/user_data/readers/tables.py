"""Tables of any size: CSV by Python's own reader, Parquet by row groups, both in one pass.

Cells become compact columns chunk by chunk; beyond `max_rows` a sample is kept that depends on the row
numbers and the seed alone, so neither the file nor its rows need fit in memory.
"""

import csv
import gzip
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.columns import MISSING, Chunk, ColumnBuilder, ColumnTable, holds
from icecore.user_data.records import MAX_ROWS, ColumnType, listed

CHUNK = 65_536
DELIMITERS = ",;\t|"
COMPRESSED = ".gz"


def read_table(
    paths: Sequence[Path],
    *,
    types: Mapping[str, ColumnType] | None = None,
    whole: Sequence[str] = (),
    max_rows: int | None = None,
    seed: int = 0,
    strict: bool = False,
    numeric: Sequence[str] = (),
) -> tuple[ColumnTable, np.ndarray]:
    """All rows of the files, one after another, and the place (N,) in `paths` of each row's file.

    types   columns whose type is known; others are judged by the first chunk
    whole   columns of which every distinct text is kept
    strict  refuse cells and rows that would be counted as missing or skipped
    numeric columns that hold numbers even where these have leading zeros

    Files must have the same columns; one may lack some, whose cells are then missing. Raises DataError.
    """
    most = max_rows or MAX_ROWS
    builder = ColumnBuilder(dict(types or {}), frozenset(whole), most, seed, strict, frozenset(numeric))
    for place, path in enumerate(paths):
        open_file = FORMATS.get(_suffix(path))
        if open_file is None:
            raise DataError(f"{path}: expected a table ({', '.join(FORMATS)}), found {path.suffix or 'no suffix'}")
        rows = 0
        for chunk in open_file(path, builder):
            builder.add(chunk, place, path)
            rows = int(chunk.rows[-1]) + 1
        builder.end(rows)
    return builder.table(listed([str(path) for path in paths], 3))


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(COMPRESSED)).suffix


def open_text(path: Path) -> tuple[IO[str], str]:
    """The file as text, gunzipped if need be, and its encoding: UTF-8, UTF-16 by its mark, else Latin-1."""

    def opened(encoding: str) -> IO[str]:
        return (gzip.open if path.suffix.lower() == COMPRESSED else open)(path, "rt", encoding=encoding, newline="")

    try:
        with (gzip.open if path.suffix.lower() == COMPRESSED else open)(path, "rb") as file:
            start = file.read(1024)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            return opened("utf-16"), "UTF-16"
        if 0 in start:
            guess = "UTF-16BE" if start[::2].count(0) > start[1::2].count(0) else "UTF-16LE"
            raise DataError(
                f"{path}: is no UTF-8, but perhaps UTF-16 without a byte-order mark (it has zero bytes); "
                f"save it as UTF-8, say with iconv -f {guess} -t UTF-8"
            )
        try:
            with opened("utf-8-sig") as file:
                while file.read(1 << 20):
                    pass
        except UnicodeDecodeError:
            return opened("latin-1"), "Latin-1"
        return opened("utf-8-sig"), "UTF-8"
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch or copy it again") from error


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that cuts the first lines into the most cells, as many in each."""
    best, cells = ",", 1
    for delimiter in DELIMITERS:
        counts = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
        if len(counts) == 1 and counts != {1} and (found := counts.pop()) > cells:
            best, cells = delimiter, found
    if cells == 1:  # ragged: the most frequent in the header
        best = max(DELIMITERS, key=lines[0].count) if lines else ","
    return best


def _has_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the first row names columns: no numbers, or numbers that count the columns, or unlike the next row."""
    numeric = [holds("number", cell) and cell.strip().lower() not in MISSING for cell in first]
    if not any(numeric):
        return True
    counting = [float(cell) for cell, is_number in zip(first, numeric, strict=True) if is_number]
    if len(counting) > 2 and all(b - a == 1 for a, b in itertools.pairwise(counting)):
        return True
    return len(second) == len(first) and numeric != [holds("number", cell) for cell in second]


def read_csv(path: Path, builder: ColumnBuilder) -> Iterator[Chunk]:
    """Chunks of a CSV or TSV: column names, and the cells of each as texts. Raises DataError."""
    csv.field_size_limit(2**31 - 1)  # a cell may hold a chromosome
    opened, encoding = open_text(path)
    if encoding != "UTF-8":
        builder.notes.append(("encoding", f"{path.name}: {encoding}"))
    try:
        with opened as file:
            head = [line for line, _ in zip(file, range(50), strict=False)]
            file.seek(0)
            delimiter = _delimiter(head)
            reader = csv.reader(file, delimiter=delimiter)
            # where the point is a comma, the comma is a semicolon
            rows = ([_decimal(cell) for cell in row] for row in reader) if delimiter == ";" else reader
            start = [row for row in csv.reader(head, delimiter=delimiter) if row][:2]
            if not start:
                raise DataError(f"{path}: is empty; expected a header and rows")
            named = _has_header(start[0], start[-1] if len(start) > 1 else [])
            names = [cell.strip() for cell in next(r for r in rows if r)] if named else []
            names = names or [f"column{i + 1}" for i in range(len(start[0]))]
            names = [name or f"column{i + 1}" for i, name in enumerate(names)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{path}: several columns are called {listed(twice)}; rename all but one")
            if not named:
                builder.notes.append(("header", f"{path.name}: none, columns are called column1 to column{len(names)}"))
            chunk: list[list[str]] = []
            places: list[int] = []
            count = 0
            last = reader.line_num
            for row in rows:
                first, last = last + 1, reader.line_num
                count += bool(row)
                if len(row) != len(names):
                    if row:
                        # a quote left open takes many lines with it
                        lines = f"line {last}" if first == last else f"lines {first:,} to {last:,}"
                        builder.skip(f"{path.name} {lines}", f"expected {len(names)} cells, found {len(row)}")
                    continue
                chunk.append(row)
                places.append(count - 1)
                if len(chunk) == CHUNK:
                    yield _chunk(names, chunk, places)
                    chunk, places = [], []
            if chunk:
                yield _chunk(names, chunk, places)
    except (csv.Error, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); is it another format, or damaged?") from error


def _chunk(names: list[str], rows: list[list[str]], places: list[int]) -> Chunk:
    return Chunk(names, dict(zip(names, zip(*rows, strict=True), strict=True)), np.array(places))


def _decimal(cell: str) -> str:
    whole, comma, rest = cell.partition(",")
    return f"{whole}.{rest}" if comma and rest.isdecimal() and whole.strip().lstrip("+-").isdecimal() else cell


def read_parquet(path: Path, builder: ColumnBuilder) -> Iterator[Chunk]:
    """Chunks of a Parquet file, row group by row group. Raises DataError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs a package: pip install icecore[tables]") from error
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = [f.name for f in schema if not pa.types.is_nested(f.type) and not _is_bytes(pa, f.type)]
            if left := [f.name for f in schema if f.name not in names]:
                builder.notes.append(("dropped", f"{listed(left)}: lists, structures or bytes"))
            for found in schema:
                if _is_moment(pa, found.type):
                    builder.types.setdefault(found.name, "date")
            first = 0
            for batch in file.iter_batches(CHUNK, columns=names):
                if count := batch.num_rows:
                    cells = {name: _cells(pa, batch.column(name)) for name in names}
                    yield Chunk(names, cells, np.arange(first, first + count))
                    first += count
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); fetch or copy it again") from error


def _is_bytes(pa: Any, kind: Any) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _is_moment(pa: Any, kind: Any) -> bool:
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def _cells(pa: Any, column: Any) -> Any:
    """An Arrow array as (n,) numbers with nan for null, moments in seconds since 1970, else a list of texts."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _cells(pa, column.dictionary_decode())
    if _is_moment(pa, kind):
        return column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(zero_copy_only=False) / 1e6
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if whole and not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    if whole or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return column.cast(pa.string()).to_pylist()


FORMATS: Mapping[str, Callable[..., Iterator[Chunk]]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), read_csv),
    **dict.fromkeys((".parquet", ".pq"), read_parquet),
}
