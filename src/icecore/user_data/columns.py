"""Compact columns from cells, chunk by chunk: numbers, dates or texts, and at most so many rows.

Beyond `max_rows` a sample is kept that depends on row numbers and seed alone, so it is the same however the
rows came. Whatever cannot be read is counted, or refused where strict.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import pluralize
from icecore.user_data.records import Column, ColumnType, listed

#: cells that say that there is no value, in lower case
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a", "nat"})
#: those of them that are no class of a text target either: "none" and "-" may well be classes
NO_CLASS = frozenset({"", "nan", "null"})
#: a column is of numbers, or of dates, if this share of its first chunk is
SHARE = 0.98
#: a column of texts is doubtful if this share of its first chunk are numbers, or nearly
DOUBT = 0.5
#: distinct texts of a column that are kept, unless it is asked for by name
MAX_LEVELS = 100_000


@dataclass
class ColumnTable:
    """Columns by name, the numbers (N,) of the rows that were kept, and remarks.

    given  text columns in which a cell says "none" or another word of `MISSING`, with these words as texts
    words  cells of each column of numbers that say such a word, by word
    """

    columns: dict[str, Column]
    numbers: np.ndarray
    notes: list[tuple[str, str]] = field(default_factory=list)
    given: Mapping[str, Column] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def target(self, name: str) -> Column:
        """A column as a target, in which fewer words mean a missing value; notes those that were met."""
        column, notes = target_of(self.given.get(name, self.columns[name]), self.words.get(name))
        self.notes += notes
        return column


def target_of(column: Column, words: Mapping[str, int] | None = None) -> tuple[Column, list[tuple[str, str]]]:
    """A target without the texts that are no class, and a note of them, or of the `words` in a column of numbers."""
    if column.type == "text":
        counts = np.bincount(column.values[column.values >= 0], minlength=len(column.texts))
        words = {
            level: int(count)
            for level, count in zip(column.texts, counts, strict=False)
            if count and level.strip().lower() in NO_CLASS
        }
        column = _without(column, NO_CLASS)
    parts = [f"{pluralize(count, 'row')} whose {column.name} is {word!r}" for word, count in (words or {}).items()]
    return column, [("no target", listed(parts))] if parts else []


def _without(column: Column, words: frozenset[str]) -> Column:
    """The column of texts, those in `words` missing."""
    kept = np.array([level.strip().lower() not in words for level in column.texts], bool)
    if kept.all():
        return column
    places = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1).astype(np.int32)
    levels = [level for level, keep in zip(column.texts, kept, strict=True) if keep]
    return replace(column, values=places[column.values], levels=levels)


def number(cell: str) -> float:
    """The number in a cell, nan for one of `MISSING`. Raises ValueError."""
    try:
        return float(cell)
    except ValueError:
        if cell.strip().lower() in MISSING:
            return math.nan
        raise


def date(cell: str) -> float:
    """Seconds since 1970 of an ISO 8601 date or time (slashes will do too), in UTC. Raises ValueError."""
    text = cell.strip()
    if text.lower() in MISSING:
        return math.nan
    if len(text) < 8 or not text[:4].isdecimal() or text.isdecimal():
        raise ValueError(cell)
    moment = datetime.fromisoformat(text.replace("/", "-"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


PARSERS: Mapping[str, Callable[[str], float]] = {"number": number, "date": date}


class _Text:
    """A column of texts in the making: codes (N,) int32 into distinct texts."""

    def __init__(self, most: float) -> None:
        self.index: dict[str, int] = {}
        self.most = most

    def codes(self, cells: Sequence[str | None]) -> np.ndarray:
        """(n,) int32, -1 where missing; all -1 once there are too many distinct texts."""
        index = self.index
        if len(index) > self.most:
            return np.full(len(cells), -1, np.int32)
        found: dict[str | None, int] = {}
        for cell in dict.fromkeys(cells):
            # what says "none" is a text until it is known whether the column is a target
            if cell is None or not cell.strip():
                found[cell] = -1
            else:
                found[cell] = index.setdefault(cell, len(index))
        return np.fromiter(map(found.__getitem__, cells), np.int32, len(cells))


class Chunk(NamedTuple):
    """Some rows of a file: names of its columns, cells of each as texts or numbers (n,), row numbers (n,) from 0."""

    names: Sequence[str]
    cells: Mapping[str, Any]
    rows: np.ndarray


class ColumnBuilder:
    """Columns that grow chunk by chunk, with at most `most` rows in the end and twice that on the way."""

    def __init__(
        self,
        types: dict[str, ColumnType],
        whole: frozenset[str],
        most: int,
        seed: int,
        strict: bool,
        numeric: frozenset[str] = frozenset(),
    ) -> None:
        self.types, self.whole, self.most, self.strict, self.numeric = types, whole, most, strict, numeric
        self.seed = np.uint64(seed * 2 + 1)
        self.names: list[str] | None = None
        self.parts: dict[str, list[np.ndarray]] = {}
        self.texts: dict[str, _Text] = {}
        self.origins: dict[str, str] = {}
        self.bad: dict[str, tuple[int, str]] = {}
        self.words: dict[str, Counter[str]] = {}
        self.codes: dict[str, str] = {}
        self.doubts: dict[str, str] = {}
        self.skipped: list[str] = []
        self.notes: list[tuple[str, str]] = []
        self.numbers: list[np.ndarray] = []
        self.files: list[np.ndarray] = []
        self.first = self.read = self.kept = 0

    def add(self, chunk: Chunk, place: int, path: Path) -> None:
        """Take the columns of one chunk of the file at `path`, the `place`-th."""
        names, cells, rows = chunk
        count = len(rows)
        if self.names is None:
            self.names = list(names)
        elif extra := [name for name in names if name not in self.names]:
            raise DataError(f"{path}: has the column {listed(extra)}, which the files before it lack; make them agree")
        for name in self.names:
            part = cells.get(name)
            values = self._convert(name, [None] * count if part is None else part, f"{path} row", rows)
            self.parts.setdefault(name, []).append(values)
        self.numbers.append(self.first + rows)
        self.files.append(np.full(count, place, np.int32))
        self.read += count
        self.kept += count
        if self.kept > 2 * self.most:
            self._thin()

    def end(self, rows: int) -> None:
        """A file ends that has `rows` rows, skipped ones included."""
        self.first += rows

    def skip(self, place: str, why: str) -> None:
        """Leave a damaged row out, or refuse it."""
        if self.strict:
            raise DataError(f"{place}: {why}; mend the row, or leave --strict out to skip and count such rows")
        self.skipped.append(f"{place} ({why})")

    def table(self, place: str) -> tuple[ColumnTable, np.ndarray]:
        """What was read, and each row's file. Raises DataError, naming `place`, where there is no row."""
        if self.names is None or not self.read:
            damaged = (
                f" but {pluralize(len(self.skipped), 'damaged one')}: {listed(self.skipped, 3)}" if self.skipped else ""
            )
            raise DataError(f"{place}: has no rows{damaged}; expected a header and at least one row")
        if self.kept > self.most:
            self._thin()
        if self.kept < self.read:
            self.notes.append(("sampled", f"{self.kept:,} of {self.read:,} rows (--max-rows)"))
        columns: dict[str, Column] = {}
        given: dict[str, Column] = {}
        for name in self.names:
            # column by column, so that parts and whole are never all there at once
            values = np.concatenate(self.parts.pop(name))
            text = self.texts.get(name)
            levels = () if text is None else None if len(text.index) > text.most else list(text.index)
            origin, doubt = self.origins.get(name, "float"), self.doubts.get(name, "")
            column = Column(name, self.types[name], values, levels, origin, doubt)
            columns[name] = column if text is None else _without(column, MISSING)
            if columns[name] is not column:
                given[name] = column
        for name, (count, example) in self.bad.items():
            self.notes.append(
                ("not numbers", f"{pluralize(count, 'cell')} of {name!r}, say {example!r}: missing (--strict refuses)")
            )
        if self.codes:
            names, code = list(self.codes), next(iter(self.codes.values()))
            self.notes.append(("codes", f"{listed(names)}: leading zeros, as in {code!r}, so texts and no numbers"))
        if self.skipped:
            self.notes.append(("skipped", f"{pluralize(len(self.skipped), 'damaged row')}: {listed(self.skipped, 3)}"))
        table = ColumnTable(columns, np.concatenate(self.numbers), self.notes, given, self.words)
        return table, np.concatenate(self.files)

    def _convert(self, name: str, part: Any, place: str, rows: np.ndarray) -> np.ndarray:
        if isinstance(part, np.ndarray):
            if self.types.setdefault(name, "number") != "text":
                self.origins.setdefault(name, {"b": "bool", "i": "int", "u": "int"}.get(part.dtype.kind, "float"))
                return self._compact(name, part.astype(np.float64))
            whole = part.dtype.kind == "f" and not (part[np.isfinite(part)] % 1).any()
            part = [None if v != v else str(int(v)) if whole else str(v) for v in part.tolist()]
        kind = self.types.get(name)
        if kind is None and any(cell is not None for cell in part):
            kind = self.types[name] = self._judged(name, part)
        if kind is None or kind == "text":
            if kind is None:
                self.types[name] = "text"
            self.origins.setdefault(name, "str")
            text = self.texts.setdefault(name, _Text(math.inf if name in self.whole else MAX_LEVELS))
            return text.codes(part)
        values = self._parsed(name, part, PARSERS[kind], place, rows)
        absent = Counter(part[i] for i in np.flatnonzero(np.isnan(values)).tolist())
        if words := {c: n for c, n in absent.items() if c is not None and c.strip() and c.strip().lower() in MISSING}:
            self.words.setdefault(name, Counter()).update(words)
        return self._compact(name, values)

    def _judged(self, name: str, cells: Sequence[str | None]) -> ColumnType:
        """What a column is by its first cells; that it looks like another kind is kept to be said."""
        said = [cell for cell in cells if cell is not None and cell.strip().lower() not in MISSING]
        kind = _type_of(said)
        if kind == "number" and name not in self.numeric and (code := coded(said)):
            self.codes[name] = code
            return "text"
        if kind == "text" and (doubt := _doubt(said)):
            self.doubts[name] = doubt
        return kind

    def _parsed(
        self, name: str, cells: Sequence[str | None], parse: Callable[[str], float], place: str, rows: np.ndarray
    ) -> np.ndarray:
        try:
            # nearly always all are numbers: `float` alone is several times as fast
            quick: Callable[[Any], float] = float if parse is number else parse
            return np.fromiter(map(quick, cells), np.float64, len(cells))
        except (TypeError, ValueError):
            values = np.full(len(cells), math.nan)
        for row, cell in enumerate(cells):
            try:
                values[row] = math.nan if cell is None else parse(cell)
            except ValueError:
                if self.strict:
                    raise DataError(
                        f"{place} {rows[row] + 1}: column {name!r} has {cell!r}, expected a "
                        f"{self.types[name]}; mend it, or leave --strict out to take it as missing"
                    ) from None
                count, example = self.bad.get(name, (0, str(cell)))
                self.bad[name] = (count + 1, example)
        return values

    def _compact(self, name: str, values: np.ndarray) -> np.ndarray:
        """As float32 unless that would blur the column: dates, or small changes of large numbers."""
        with np.errstate(over="ignore"):  # what is beyond float32 is infinitely far from the rest
            parts = self.parts.get(name)
            if parts:
                return values.astype(parts[0].dtype)
            seen = values[np.isfinite(values)]
            narrow = self.types[name] == "number" and seen.size and np.ptp(seen) >= 1e-3 * np.abs(seen).max()
            narrow = narrow and (np.abs(seen).max() < 2**24 or (seen % 1).any())
            return values.astype(np.float32 if narrow else np.float64)

    def _thin(self) -> None:
        """Keep the `most` rows whose numbers have the smallest hashes: whatever the chunks, the same rows."""
        numbers = np.concatenate(self.numbers)
        hashes = _hash(numbers, self.seed)
        kept = np.sort(np.argpartition(hashes, self.most)[: self.most])
        for parts in (self.numbers, self.files, *self.parts.values()):
            parts[:] = [np.concatenate(parts)[kept]]
        self.kept = len(kept)


def _hash(numbers: np.ndarray, seed: np.uint64) -> np.ndarray:
    """splitmix64 of each row number."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _type_of(said: Sequence[str]) -> ColumnType:
    """What nearly all of the cells that say something are."""
    for kind in ("number", "date"):
        if said and sum(holds(kind, cell) for cell in said) >= SHARE * len(said):
            return kind
    return "text"


_CODE = re.compile(r"\s*0\d+\s*")
#: numbers that have a sign of money or share, or separators, and so are none to `float`
_DRESSED = re.compile(
    r"[+-]?[$€£¥]?\s*[+-]?(\d{1,3}([,' \u00a0\u202f]\d{3})+|\d+)([.,]\d+)?\s*[$€£¥%]?|\d{1,3}(\.\d{3})+,\d+"
)


def coded(cells: Sequence[str]) -> str:
    """A cell with leading zeros where the numbers are whole, and so codes: 007 is not 7. Empty where there is none."""
    found = next(filter(_CODE.fullmatch, cells), "")
    return found if found and all(cell.strip().isdecimal() for cell in cells if holds("number", cell)) else ""


def _doubt(said: Sequence[str]) -> str:
    """Why texts look like numbers, in words; empty where they do not."""
    plain = [holds("number", cell) for cell in said]
    near = sum(is_number or bool(_DRESSED.fullmatch(cell.strip())) for cell, is_number in zip(said, plain, strict=True))
    if not said or near < DOUBT * len(said):
        return ""
    odd = [cell for cell, is_number in zip(said, plain, strict=True) if not is_number]
    # of cells that only need undressing none is odd where others are
    example = next((cell for cell in odd if not _DRESSED.fullmatch(cell.strip())), odd[0])
    share = f"{math.floor(100 * near / len(said))}% numbers"
    return f"{share}, but e.g. {example!r}" if near < len(said) else f"{share}, but written as {example!r}"


def holds(kind: str, cell: str) -> bool:
    """Whether the cell is of this kind, one of `PARSERS`, or missing."""
    try:
        PARSERS[kind](cell)
    except ValueError:
        return False
    return True
