"""Readers of remote homology files: TSV, FASTA with labels, and TAPE's own JSON and LMDB.

All four give the same records, so the task does not depend on the format. LMDB files and the
pickles in them come from the network, so icecore reads both itself: neither can run code or touch foreign memory.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import shortened
from icecore.tasks.data_files import FETCH_AGAIN, find_first, missing_data_error, read_bytes
from icecore.tasks.lmdb_files import LmdbFile
from icecore.tasks.pickles import unpickle

#: file names of each split without their endings, ours first, then TAPE's
STEMS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("valid", "val"),
    "test_fold": ("test_fold", "test_fold_holdout"),
    "test_superfamily": ("test_superfamily", "test_superfamily_holdout"),
    "test_family": ("test_family", "test_family_holdout"),
}
FOLDERS = ("homology", "remote_homology", "remote_homology_json", ".")


class ProteinRecord(NamedTuple):
    """One protein domain; `location` is where it was read (file and line or record), for messages."""

    location: str
    id: str
    sequence: str
    fold: str


class Format(NamedTuple):
    """File names, with `{}` for the stem of a split, and the reader of the records of one file."""

    patterns: tuple[str, ...]
    read: Callable[[Path], Iterator[ProteinRecord]]

    def names(self, split: str) -> list[str]:
        """The names that a file of `split` may have."""
        return [pattern.format(stem) for stem in STEMS[split] for pattern in self.patterns]


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, found {error.reason} at byte {error.start}") from error


def _table(path: Path, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """(location, values of `columns`) of each row of a TSV or CSV; `columns` maps a column to its accepted names."""
    csv_file = ".csv" in path.suffixes
    rows = csv.reader(
        _text(path).splitlines(),
        delimiter="," if csv_file else "\t",
        quoting=csv.QUOTE_MINIMAL if csv_file else csv.QUOTE_NONE,
    )
    header = [name.strip().lower() for name in next(rows, [])]
    indices = [next((header.index(name) for name in names if name in header), None) for names in columns.values()]
    if None in indices:
        raise DataError(
            f"{path}: expected a header with the columns {', '.join(columns)}, found {', '.join(header) or 'nothing'}"
        )
    for row in rows:
        if not row:
            continue
        location = f"{path} line {rows.line_num}"
        if len(row) != len(header):
            raise DataError(f"{location}: expected {len(header)} columns, found {len(row)}")
        yield location, [row[i].strip() for i in indices if i is not None]


def read_tsv(path: Path) -> Iterator[ProteinRecord]:
    """Records of a TSV whose header names id, fold and sequence. Other columns are ignored."""
    columns = {"id": ("id",), "fold": ("fold", "fold_label"), "sequence": ("sequence", "primary")}
    for location, (name, fold, sequence) in _table(path, columns):
        yield ProteinRecord(location, name, sequence, fold)


def read_fasta(path: Path) -> Iterator[ProteinRecord]:
    """Records of `<split>.fasta` (or .fa), with folds from a table beside it whose header names id and fold.

    The table is `<split>.labels.tsv` or .csv, or one `labels.tsv` or .csv for all splits. Its rows may have any order,
    and rows without a sequence are ignored. The id of a record is the first word after `>`.
    """
    stem = path.name.split(".")[0]
    choices = [f"{stem}.labels.tsv", f"{stem}.labels.csv", "labels.tsv", "labels.csv"]
    label_file = find_first([path.parent], choices)
    if label_file is None:
        raise DataError(
            f"{path}: its fold labels are missing. Put {' or '.join(choices)} with the columns id and fold beside it."
        )
    columns = {"id": ("id",), "fold": ("fold", "fold_label")}
    folds: dict[str, str] = {}
    for location, (name, fold) in _table(label_file, columns):
        if folds.setdefault(name, fold) != fold:
            raise DataError(f"{location}: {name!r} has two folds, {folds[name]} and {fold}. Keep one of them.")

    name, location, parts = None, "", []
    for number, line in enumerate([*_text(path).splitlines(), ">"], 1):
        if not line.startswith(">"):
            if name is None and line.strip():
                raise DataError(f"{path} line {number}: expected a line starting with '>', found {line[:20]!r}")
            parts.append(line.strip())
            continue
        if name is not None:
            if name not in folds:
                raise DataError(f"{location}: no fold for {name!r} in {label_file.name}. Add a row for it.")
            yield ProteinRecord(location, name, "".join(parts).rstrip("*"), folds[name])
        name, location, parts = (line[1:].split() or [""])[0], f"{path} line {number}", []


def _tape_record(location: str, index: int, item: Any) -> ProteinRecord:
    """The record of one TAPE item: a dict with `primary`, `fold_label` and perhaps `id`."""
    if not isinstance(item, dict) or not {"primary", "fold_label"} <= item.keys():
        found = ", ".join(map(str, item)) if isinstance(item, dict) else type(item).__name__
        raise DataError(f"{location}: expected a record with the fields primary and fold_label, found {found}")
    primary, fold, name = item["primary"], item["fold_label"], item.get("id", index)
    if not isinstance(primary, str):
        raise DataError(f"{location}: expected a string as primary, found {type(primary).__name__}")
    if isinstance(fold, np.ndarray) and fold.size == 1:
        fold = fold.reshape(())[()]
    if not isinstance(fold, int | np.integer) or not 0 <= fold < 2**63:
        raise DataError(
            f"{location}: expected an integer of at least 0 as fold_label, found {shortened(item['fold_label'])}"
        )
    if not isinstance(name, bytes | str | int | np.integer) or (isinstance(name, int) and abs(name) >= 2**63):
        raise DataError(f"{location}: expected a text or a number as id, found {shortened(name)}")
    name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return ProteinRecord(location, name, primary, str(int(fold)))


def read_json(path: Path) -> Iterator[ProteinRecord]:
    """Records of TAPE's JSON: a list of objects."""
    try:
        items = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno}: not JSON ({error.msg}). The file may be cut short. {FETCH_AGAIN}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, or lists in lists without end
        raise DataError(f"{path}: not the JSON of records ({error}). {FETCH_AGAIN}") from error
    if not isinstance(items, list):
        raise DataError(f"{path}: expected a list of records, found {type(items).__name__}")
    for index, item in enumerate(items):
        yield _tape_record(f"{path} record {index}", index, item)


def read_lmdb(path: Path) -> Iterator[ProteinRecord]:
    """Records of TAPE's LMDB: key `num_examples`, then "0", "1", ... each a pickled dict."""
    with LmdbFile(path) as store:

        def item(key: str) -> Any:
            data = store.get(key.encode())
            if data is None:
                raise DataError(f"{path}: expected a record {key!r}, found none. {FETCH_AGAIN}")
            return unpickle(data, f"{path} record {key}")

        count = item("num_examples")
        if not isinstance(count, int):
            raise DataError(f"{path}: expected an integer as num_examples, found {shortened(count)}")
        for index in range(count):
            yield _tape_record(f"{path} record {index}", index, item(str(index)))


FORMATS: Mapping[str, Format] = {
    "tsv": Format(("{}.tsv", "{}.tsv.gz"), read_tsv),
    "fasta": Format(("{}.fasta", "{}.fa"), read_fasta),
    "json": Format(("remote_homology_{}.json",), read_json),
    "lmdb": Format(("remote_homology_{}.lmdb",), read_lmdb),
}


def locate(roots: Sequence[Path], splits: Iterable[str]) -> tuple[str, dict[str, Path]]:
    """The format and the files of `splits` in the first folder that has a train file. Raises DataError."""
    for folder in (root / name for root in roots for name in FOLDERS):
        for name, form in FORMATS.items():
            if find_first([folder], form.names("train")) is None:
                continue
            files = {split: find_first([folder], form.names(split)) for split in splits}
            missing = [" or ".join(form.names(split)) for split, path in files.items() if path is None]
            if missing:
                raise DataError(
                    f"{folder}: found {form.names('train')[0]}, but not {', '.join(missing)}. Put the missing files "
                    "beside it."
                )
            return name, {split: path for split, path in files.items() if path is not None}
    choices = [f"{FOLDERS[0]}/{form.names('train')[0]} (and the other splits)" for form in FORMATS.values()]
    raise missing_data_error("remote-homology", roots, choices)


def read(form: str, path: Path) -> list[ProteinRecord]:
    """All records of one file, in order. Raises DataError if there are none, or if a sequence is empty."""
    records = list(FORMATS[form].read(path))
    if not records:
        raise DataError(f"{path}: expected at least one record, found none")
    for record in records:
        if not record.sequence:
            raise DataError(f"{record.location}: the sequence of {record.id!r} is empty. Remove the record.")
    return records
