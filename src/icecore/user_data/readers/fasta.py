"""FASTA files, with labels in the headers or in a table beside the file."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names, pluralize
from icecore.user_data.notes import Note
from icecore.user_data.readers.labels import find_label_table, label_target, read_labels_by_id
from icecore.user_data.readers.source_files import ReadRequest, list_data_files
from icecore.user_data.readers.text_lines import iterate_lines
from icecore.user_data.records import TextRecords

FASTA_ENDINGS = (".fasta", ".fa", ".faa", ".fna", ".ffn", ".frn", ".fas", ".fsa", ".pep", ".mfa")
_FIELD = re.compile(r"(?:^|[\s;|])([A-Za-z_]\w*)=([^\s;|]+)")
_LABEL_FIELDS = ("label", "class", "target")
#: first parts of headers of the large databases: what follows are accessions, not labels
_DATABASES = frozenset(
    [
        "sp",
        "tr",
        "gi",
        "ref",
        "gb",
        "emb",
        "dbj",
        "pdb",
        "pir",
        "prf",
        "pat",
        "bbs",
        "gnl",
        "lcl",
        "tpg",
        "tpe",
        "tpd",
        "uniprot",
    ]
)


def read_fasta(request: ReadRequest) -> TextRecords:
    """Read FASTA; the label is in `>id label=...`, in `>id|label`, or in a table of ids and labels beside the file.

    Raises DataError if there are no records, or no labels unless the rows are for prediction.
    """
    texts: list[str] = []
    labels: list[str] = []
    names: list[str] = []
    splits: list[str] = []
    notes: list[Note] = []
    fields: set[str] = set()
    target, unmatched = "label", []
    files = list_data_files(request, FASTA_ENDINGS)
    for path, split in files:
        label_table = find_label_table(path)
        table = None if label_table is None else read_labels_by_id(label_table, request)
        if table is not None:
            target = table.target
            notes += table.notes
        for header, text in _iterate_records(path, notes):
            name = (header.split() or [""])[0]
            label = _label_in_header(header, name, request, fields) if table is None else table.find(name)
            if label is None:
                unmatched.append(name)
            texts.append(text)
            names.append(name)
            labels.append(label or "")
            splits.append(split)
    if not texts:
        raise DataError(f"{request.path} has no records. Each record must start with a line such as '>id label=x'.")
    _check_labels(request, labels, fields, target)
    if unmatched and any(labels):
        message = f"{len(texts) - len(unmatched):,} of {pluralize(len(texts), 'sequence')} have one"
        notes.append(("labels", f"{message}; without: {join_names(unmatched, 3)}"))
    texts, case_notes = _fold_case(texts, request)
    targets, label_notes = label_target(request, labels, target)
    return TextRecords(
        texts=texts,
        targets=targets,
        names=names,
        splits=np.array(splits) if any(splits) else None,
        source={"format": "fasta", "files": [path.name for path, _ in files]},
        notes=[*notes, *case_notes, *label_notes],
    )


def _check_labels(request: ReadRequest, labels: Sequence[str], fields: set[str], target: str) -> None:
    """Raise DataError if there are no labels to learn, ConfigError if the target that is set is none of them."""
    wanted = request.settings.target[:1]
    if request.predicting:
        return
    if wanted and wanted[0] not in (*fields, target) and fields:
        raise unknown_name("target", wanted[0], fields)
    if not any(labels):
        raise DataError(
            f"{request.path} has no labels. Write them in the headers as '>id label=x' or '>id|x', "
            "or put a table labels.csv with the columns id,label beside the file."
        )


def _fold_case(texts: list[str], request: ReadRequest) -> tuple[list[str], list[Note]]:
    """Residues in upper case if both cases occur: small letters only mark repeats or low quality.

    New rows are left to the encoder, which knows the letters of training.
    """
    small = sum(text != text.upper() for text in texts)
    if request.predicting or not small or all(text == text.lower() for text in texts):
        return texts, []
    return list(map(str.upper, texts)), [
        ("case", f"{pluralize(small, 'sequence')} with small letters: read as capitals")
    ]


def _label_in_header(header: str, name: str, request: ReadRequest, fields: set[str]) -> str | None:
    """The label in `>id label=x` or `>id|x`; None if there is none. Adds the names of the header's fields."""
    found = dict(_FIELD.findall(header))
    fields |= found.keys()
    by_low_name = {field.lower(): value for field, value in found.items()}
    for wanted in request.settings.target[:1]:
        if wanted in found or (found and wanted not in _LABEL_FIELDS):
            return found.get(wanted)
    label = next((by_low_name[field] for field in _LABEL_FIELDS if field in by_low_name), None)
    if label is not None or "|" not in name or name.split("|")[0].lower() in _DATABASES:
        return label
    return name.rpartition("|")[2]


def _iterate_records(path: Path, notes: list[Note]) -> Iterator[tuple[str, str]]:
    """(header, sequence) of each record, without white space and without a stop (*) at the end."""
    header: str | None = None
    parts: list[str] = []
    for number, line in enumerate(iterate_lines(path, notes), 1):
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
