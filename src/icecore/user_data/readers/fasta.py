"""FASTA files, with labels in the headers or in a table beside the file."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.readers.labels import find_label_table, label_target, read_labels_by_id
from icecore.user_data.readers.source_files import ReadRequest, list_data_files
from icecore.user_data.readers.text_lines import iterate_lines
from icecore.user_data.records import TextRecords

FASTA_ENDINGS = (".fasta", ".fa", ".faa", ".fna", ".ffn")
_LABEL = re.compile(r"(?:^|[\s;|])(?:label|class|target)=([^\s;|]+)", re.IGNORECASE)


def read_fasta(request: ReadRequest) -> TextRecords:
    """Read FASTA; the label is in `>id label=...`, in `>id|label`, or in a table of ids and labels beside the file.

    Raises DataError if there are no records, or no labels unless the rows are for prediction.
    """
    texts: list[str] = []
    labels: list[str] = []
    names: list[str] = []
    splits: list[str] = []
    files = list_data_files(request, FASTA_ENDINGS)
    for path, split in files:
        label_table = find_label_table(path)
        label_of = {} if label_table is None else read_labels_by_id(label_table)
        for header, text in _iterate_records(path):
            name = (header.split() or [""])[0]
            texts.append(text)
            names.append(name)
            labels.append(label_of.get(name, "") if label_of else _label_in_header(header, name))
            splits.append(split)
    if not texts:
        raise DataError(f"{request.path} has no records. Each record must start with a line such as '>id label=x'.")
    if not any(labels) and not request.predicting:
        raise DataError(
            f"{request.path} has no labels. Write them in the headers as '>id label=x' or '>id|x', "
            "or put a table labels.csv with the columns id,label beside the file."
        )
    targets, notes = label_target(request, labels)
    return TextRecords(
        texts=texts,
        targets=targets,
        names=names,
        splits=np.array(splits) if any(splits) else None,
        source={"format": "fasta", "files": [path.name for path, _ in files]},
        notes=notes,
    )


def _label_in_header(header: str, name: str) -> str:
    match = _LABEL.search(header)
    if match:
        return match[1]
    return name.rpartition("|")[2] if "|" in name else ""


def _iterate_records(path: Path) -> Iterator[tuple[str, str]]:
    """(header, sequence) of each record, without white space and without a stop (*) at the end."""
    header: str | None = None
    parts: list[str] = []
    for number, line in enumerate(iterate_lines(path), 1):
        if line.startswith(">"):
            if header is not None:
                yield header, "".join(parts).rstrip("*")
            header, parts = line[1:], []
        elif header is not None:
            parts.append("".join(line.split()))
        elif line.strip():
            raise DataError(
                f"{path} line {number}: the first record must start with '>', but this line is {line[:20]!r}."
            )
    if header is not None:
        yield header, "".join(parts).rstrip("*")
