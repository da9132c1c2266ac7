"""Builds compact columns from the cells of a table, chunk by chunk, with a limited number of rows.

Larger tables are sampled by row number and seed alone, so the sample does not depend on the chunks. Cells that
cannot be read are counted, or raise an error if `strict` is set.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import join_names, pluralize
from icecore.user_data.cell_types import (
    MISSING_WORDS,
    can_parse,
    cell_parser,
    describe_number_like,
    find_date_order,
    find_leading_zero,
    find_long_number,
    infer_type,
    is_missing_word,
)
from icecore.user_data.column_table import (
    ColumnTable,
    TableChunk,
    TableOptions,
    spell_booleans,
    without_words,
)
from icecore.user_data.columns import Column, ColumnType
from icecore.user_data.notes import Note
from icecore.user_data.number_formats import find_number_format
from icecore.user_data.written_cells import TextCodes, WrittenCells

#: distinct texts that are kept of a column, unless it is listed in `TableOptions.keep_all_texts`
MAX_DISTINCT_TEXTS = 100_000


class ColumnBuilder:
    """Columns that grow chunk by chunk: at most `max_rows` rows in the end, and twice as many on the way."""

    def __init__(self, options: TableOptions) -> None:
        self.options = options
        self.types = dict(options.types)
        self.formats = dict(options.formats)
        self.names: list[str] | None = None
        self._known: frozenset[str] = frozenset()
        self.notes: list[Note] = []
        self._parts: dict[str, list[np.ndarray]] = {}
        self._text_codes: dict[str, TextCodes] = {}
        #: of columns of numbers, how their cells are written
        self._written: dict[str, WrittenCells] = {}
        self._per_cent: set[str] = set()
        self._origins: dict[str, str] = {}
        #: cells of each column that are no numbers: how many, and the first
        self._unreadable: dict[str, tuple[int, str]] = {}
        self._missing_word_counts: dict[str, Counter[str]] = {}
        self._codes: dict[str, str] = {}
        self._number_hints: dict[str, str] = {}
        self._skipped: list[str] = []
        self._row_numbers: list[np.ndarray] = []
        self._file_indices: list[np.ndarray] = []
        self._rows_of_files = self._rows_read = self._rows_kept = 0

    def add(self, chunk: TableChunk, file_index: int, path: Path) -> None:
        """Add the rows of one chunk of the file at `path`, which is number `file_index`. Raises DataError."""
        names, cells, rows = chunk
        count = len(rows)
        if self.names is None:
            self.names, self._known = list(names), frozenset(names)
        elif extra := [name for name in names if name not in self._known]:
            raise DataError(
                f"{path} has a column {join_names(extra)} that the files before it lack. "
                "Give all files of the table the same columns."
            )
        for name in self.names:
            part = cells.get(name)
            values = self._convert(name, [None] * count if part is None else part, path, rows)
            self._parts.setdefault(name, []).append(values)
        self._row_numbers.append(self._rows_of_files + rows)
        self._file_indices.append(np.full(count, file_index, np.int32))
        self._rows_read += count
        self._rows_kept += count
        if self._rows_kept > 2 * self.options.max_rows:
            self._sample()

    def end_file(self, rows: int) -> None:
        """Mark the end of a file that has `rows` rows, including the skipped ones."""
        self._rows_of_files += rows

    def skip_row(self, position: str, reason: str) -> None:
        """Skip a damaged row at "a.csv line 3" that has, say, "1 cell instead of 2". Raises DataError if strict."""
        if self.options.strict:
            raise DataError(
                f"{position}: the row has {reason}. Correct it, or leave out --strict to skip and count such rows."
            )
        self._skipped.append(f"{position} ({reason})")

    def build(self, description: str) -> tuple[ColumnTable, np.ndarray]:
        """The table, and the index (N,) of each row's file. Raises DataError, with `description`, if it is empty."""
        if self.names is None or not self._rows_read:
            damaged = ""
            if self._skipped:
                damaged = f", only {pluralize(len(self._skipped), 'damaged row')}: {join_names(self._skipped, 3)}"
            raise DataError(f"{description} has no rows{damaged}. A table needs a header and at least one row.")
        if self._rows_kept > self.options.max_rows:
            self._sample()
        if self._rows_kept < self._rows_read:
            self.notes.append(("sampled", f"{self._rows_kept:,} of {self._rows_read:,} rows (--max-rows)"))
        columns: dict[str, Column] = {}
        unfiltered: dict[str, Column] = {}
        for name in self.names:
            # one column at a time, so that parts and whole columns are never all in memory at once
            column = self._join_column(name)
            columns[name] = column
            if column.type == "text":
                columns[name] = spell_booleans(without_words(column, MISSING_WORDS))
            if columns[name] is not column:
                unfiltered[name] = column
        self._add_notes()
        row_numbers = np.concatenate(self._row_numbers)
        formats = {name: form for name, form in self.formats.items() if name in columns}
        table = ColumnTable(columns, row_numbers, self.notes, unfiltered, self._missing_word_counts, formats)
        return table, np.concatenate(self._file_indices)

    def _join_column(self, name: str) -> Column:
        values = np.concatenate(self._parts.pop(name))
        codes = self._text_codes.get(name)
        levels = () if codes is None else None if len(codes.index) > codes.most else list(codes.index)
        origin, hint = self._origins.get(name, "float"), self._number_hints.get(name, "")
        unreadable = self._unreadable.get(name, (0, ""))[0]
        column = Column(name, self.types[name], values, levels, origin, hint, unreadable=unreadable)
        written = self._written.pop(name, None)
        return column if written is None else replace(column, as_written=written.column(column))

    def _add_notes(self) -> None:
        if formats := {name: form for name, form in self.formats.items() if name not in self.options.formats}:
            parts = [f"{name} like {form}" for name, form in formats.items()]
            self.notes.append(("written", f"numbers and dates are read by how they are written: {join_names(parts)}"))
        if self._per_cent:
            names = join_names(sorted(self._per_cent))
            self.notes.append(("per cent", f"{names}: these numbers are taken as per cent, as in training: 5 is 5 %"))
        for name, (count, example) in self._unreadable.items():
            message = f"{pluralize(count, 'cell')} of column {name!r}, such as {example!r}, counted as missing"
            self.notes.append(("not numbers", f"{message} (--strict refuses them)"))
        for has_zero, reason in ((True, "of leading zeros"), (False, "its numbers are too long to be exact")):
            codes = {name: code for name, code in self._codes.items() if (code.strip()[:1] == "0") == has_zero}
            if codes:
                example = next(iter(codes.values()))
                message = f"{join_names(list(codes))}: read as text because {reason}, as in {example!r}"
                self.notes.append(("codes", message))
        if self._skipped:
            message = f"{pluralize(len(self._skipped), 'damaged row')}: {join_names(self._skipped, 3)}"
            self.notes.append(("skipped", message))

    def _convert(self, name: str, cells: Any, path: Path, rows: np.ndarray) -> np.ndarray:
        """The cells of one column as numbers, or as codes of texts."""
        if isinstance(cells, np.ndarray):
            if self.formats.get(name, "").endswith("%"):
                self._per_cent.add(name)
            if self.types.setdefault(name, "number") != "text":
                self._origins.setdefault(name, {"b": "bool", "i": "int", "u": "int"}.get(cells.dtype.kind, "float"))
                if cells.dtype.kind in "iu":
                    self._written.setdefault(name, WrittenCells()).add_integers(cells)
                if isinstance(cells, np.ma.MaskedArray):
                    return self._compact(
                        name, np.where(np.ma.getmaskarray(cells), math.nan, cells.data.astype(np.float64))
                    )
                return self._compact(name, cells.astype(np.float64))
            is_whole = cells.dtype.kind == "f" and not (cells[np.isfinite(cells)] % 1).any()
            cells = [None if v is None or v != v else str(int(v)) if is_whole else str(v) for v in cells.tolist()]
        kind = self.types.get(name)
        if kind is None and any(cell is not None for cell in cells):
            kind = self.types[name] = self._infer_type(name, cells)
        if kind is None or kind == "text":
            if kind is None:
                self.types[name] = "text"
            self._origins.setdefault(name, "str")
            most = math.inf if name in self.options.keep_all_texts else MAX_DISTINCT_TEXTS
            return self._text_codes.setdefault(name, TextCodes(most)).encode(cells)
        values = self._parse(name, cells, kind, path, rows)
        if kind == "number":
            self._written.setdefault(name, WrittenCells()).add_texts(cells, values)
        missing = Counter(cells[i] for i in np.flatnonzero(np.isnan(values)).tolist())
        if words := {c: n for c, n in missing.items() if c is not None and c.strip() and is_missing_word(c)}:
            self._missing_word_counts.setdefault(name, Counter()).update(words)
        return self._compact(name, values)

    def _infer_type(self, name: str, cells: Sequence[str | None]) -> ColumnType:
        """The type of a column by the cells of its first chunk; remembers what else the column looks like."""
        present = [cell for cell in cells if cell is not None and not is_missing_word(cell)]
        kind = infer_type(present)
        is_free = kind == "number" and name not in self.options.always_numeric
        if is_free and (example := find_leading_zero(present) or find_long_number(present)):
            self._codes[name] = example
            return "text"
        if kind == "date" or (kind == "number" and all(can_parse("number", cell) for cell in present)):
            return kind
        number_format, reason = find_number_format(present, self.options.decimal)
        if number_format is not None:
            self.formats[name] = str(number_format)
            return "number"
        date_order, date_reason = find_date_order(present, self.options.dates)
        if date_order:
            self.formats[name] = date_order
            return "date"
        if kind == "number":
            return kind
        if reason:
            self._number_hints[name] = f"{reason} (--decimal point or comma)"
        elif hint := date_reason or describe_number_like(present):
            self._number_hints[name] = hint
        return kind

    def _parse(
        self, name: str, cells: Sequence[str | None], kind: ColumnType, path: Path, rows: np.ndarray
    ) -> np.ndarray:
        parse = cell_parser(kind, self.formats.get(name, ""), name in self.options.types)
        try:
            return np.fromiter(map(self._quick_parser(name, kind, cells, parse), cells), np.float64, len(cells))
        except (TypeError, ValueError):
            values = np.full(len(cells), math.nan)
        if kind == "number" and name in self.options.types and not {name} & (self.formats.keys() | self._parts.keys()):
            # the same numbers, but written with a decimal comma; percent would be other numbers
            present = [cell for cell in cells if cell is not None and not is_missing_word(cell)]
            is_plain = all(can_parse("number", cell) for cell in present)
            number_format, _ = find_number_format(present, self.options.decimal)
            if number_format is not None and not number_format.unit and not is_plain:
                self.formats[name] = str(number_format)
                parse = cell_parser(kind, self.formats[name])
        for i, cell in enumerate(cells):
            try:
                values[i] = math.nan if cell is None else parse(cell)
            except ValueError:
                if self.options.strict:
                    raise DataError(
                        f"{path} row {rows[i] + 1}: column {name!r} must hold a {self.types[name]}, but has {cell!r}. "
                        "Correct the cell, or leave out --strict to count such cells as missing."
                    ) from None
                count, example = self._unreadable.get(name, (0, str(cell)))
                self._unreadable[name] = (count + 1, example)
        return values

    def _quick_parser(
        self, name: str, kind: ColumnType, cells: Sequence[str | None], parse: Callable[[str], float]
    ) -> Callable[[Any], float]:
        """`float` if it gives what `parse` does: nearly always it does, and it is several times as fast."""
        if kind != "number" or name in self.formats:
            return parse
        text = "".join(cells)  # type: ignore[arg-type]  # a missing cell raises TypeError, which the caller expects
        return float if text.isascii() and "_" not in text else parse

    def _compact(self, name: str, values: np.ndarray) -> np.ndarray:
        """As float32, unless that would blur the column: dates, or small changes of large numbers."""
        with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, and count as very far away
            parts = self._parts.get(name)
            if parts:
                return values.astype(parts[0].dtype)
            finite = values[np.isfinite(values)]
            narrow = self.types[name] == "number" and finite.size and np.ptp(finite) >= 1e-3 * np.abs(finite).max()
            narrow = narrow and (np.abs(finite).max() < 2**24 or (finite % 1).any())
            return values.astype(np.float32 if narrow else np.float64)

    def _sample(self) -> None:
        """Keep the `max_rows` rows whose numbers have the smallest hashes, which no chunk size can change."""
        most = self.options.max_rows
        hashes = _hash(np.concatenate(self._row_numbers), np.uint64(self.options.seed * 2 + 1))
        chosen = np.sort(np.argpartition(hashes, most)[:most])
        written = [cells.parts for cells in self._written.values() if cells.parts]
        for parts in (self._row_numbers, self._file_indices, *self._parts.values(), *written):
            parts[:] = [np.concatenate(parts)[chosen]]
        self._rows_kept = len(chosen)


def _hash(numbers: np.ndarray, seed: np.uint64) -> np.ndarray:
    """splitmix64 of each row number (Steele, Lea and Flood 2014)."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
