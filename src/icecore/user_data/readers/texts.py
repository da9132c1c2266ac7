"""Readers of character sequences: labelled lines, and FASTA with labels in it or beside it."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import pluralize
from icecore.user_data.columns import coded, target_of
from icecore.user_data.readers.source import ReadRequest, labels_beside, parts
from icecore.user_data.readers.tables import open_text, read_table
from icecore.user_data.records import Column, RawRows, RowNumbers, column_of, listed

STRING_ENDINGS = (".txt", ".smi", ".log")
FASTA_ENDINGS = (".fasta", ".fa", ".faa", ".fna", ".ffn")


def _lines(path: Path) -> Iterator[str]:
    file, _ = open_text(path)
    with file:
        yield from (line.rstrip("\r\n") for line in file)


def read_strings(request: ReadRequest) -> RawRows:
    """Lines of `label<TAB>string`; for prediction the strings alone will do."""
    labels, texts, splits, notes, blank = [], [], [], [], 0
    files = parts(request, STRING_ENDINGS)
    for path, split in files:
        for number, line in enumerate(_lines(path), 1):
            label, tab, text = line.partition("\t")
            if not line.strip():
                blank += 1
            elif tab or request.predicting:
                labels.append(label if tab else "")
                texts.append(text if tab else line)
                splits.append(split)
            else:
                raise DataError(f"{path} line {number}: expected label<TAB>string, found {line[:30]!r}")
    if blank:
        notes.append(("skipped", pluralize(blank, "empty line")))
    source = {"format": "lines", "files": [path.name for path, _ in files]}
    return _texts(request, texts, labels, RowNumbers(np.arange(len(texts))), splits, source, notes)


_LABEL = re.compile(r"(?:^|[\s;|])(?:label|class|target)=([^\s;|]+)", re.IGNORECASE)


def read_fasta(request: ReadRequest) -> RawRows:
    """FASTA; labels from `>id label=...`, `>id|label`, or a table id,label beside it (`labels.csv` or .tsv)."""
    texts, labels, names, splits = [], [], [], []
    files = parts(request, FASTA_ENDINGS)
    for path, split in files:
        beside = _labels_beside(path)
        for header, text in _fasta(path):
            name = (header.split() or [""])[0]
            stated = _LABEL.search(header)
            label = stated[1] if stated else name.rpartition("|")[2] if "|" in name else ""
            texts.append(text)
            names.append(name)
            labels.append(beside.get(name, "") if beside else label)
            splits.append(split)
    source = {"format": "fasta", "files": [path.name for path, _ in files]}
    if not texts:
        raise DataError(f"{request.path}: holds no records; expected lines starting with '>'")
    if not any(labels) and not request.predicting:
        raise DataError(
            f"{request.path}: no labels; write them as '>id label=x' or '>id|x', "
            "or put labels.csv with the columns id,label beside it"
        )
    return _texts(request, texts, labels, names, splits, source, [])


def _fasta(path: Path) -> Iterator[tuple[str, str]]:
    """(header, sequence) of each record; white space and a stop at the end go."""
    header, parts = None, []
    for number, line in enumerate(_lines(path), 1):
        if line.startswith(">"):
            if header is not None:
                yield header, "".join(parts).rstrip("*")
            header, parts = line[1:], []
        elif header is not None:
            parts.append("".join(line.split()))
        elif line.strip():
            raise DataError(f"{path} line {number}: expected a line starting with '>', found {line[:20]!r}")
    if header is not None:
        yield header, "".join(parts).rstrip("*")


def _labels_beside(path: Path) -> dict[str, str]:
    """Label by id from a table beside the file: the column id, or its first, and label, or its second."""
    found = labels_beside(path)
    if found is None:
        return {}
    known = ("id", "label", "column1", "column2")
    table, _ = read_table([found], types=dict.fromkeys(known, "text"), whole=known, max_rows=sys.maxsize)
    columns = list(table.columns.values())
    if len(columns) < 2:
        raise DataError(f"{found}: expected the columns id and label, found {listed(list(table.columns))}")
    keys, labels = (table.columns.get(n, columns[i]).labelled() for i, n in enumerate(("id", "label")))
    ids, names = [*keys.texts, ""], [*labels.texts, ""]
    return {ids[k]: names[v] for k, v in zip(keys.values, labels.values, strict=True)}


def _texts(
    request: ReadRequest,
    texts: list[str],
    labels: list[str],
    names: Sequence[str],
    splits: list[str],
    source: Mapping[str, Any],
    notes: list[tuple[str, str]],
) -> RawRows:
    """Records of texts; labels that are all numbers count as numbers."""
    targets, said = _label_target(request, labels)
    splits_of = np.array(splits) if any(splits) else None
    return RawRows("strings", texts, targets, names, splits_of, source, [*notes, *said])


def _label_target(request: ReadRequest, labels: Sequence[str]) -> tuple[dict[str, Column], list[tuple[str, str]]]:
    """The column of labels, numbers where all are, and a note of labels that are no class."""
    if not any(labels):
        return {}, []
    name = request.settings.target[0] if request.settings.target else "label"
    column, notes = target_of(column_of(name, np.array(labels)))
    known = request.types.get(name)
    try:
        numbers = np.array([float(level) for level in column.texts] + [np.nan])
    except ValueError:
        return {name: column}, notes
    if known == "text" or (known is None and coded(column.texts)):
        return {name: column}, notes
    whole = not (numbers[:-1] % 1).any()
    return {name: Column(name, "number", numbers[column.values], (), "int" if whole else "float")}, notes
