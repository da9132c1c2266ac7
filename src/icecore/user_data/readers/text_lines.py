"""Text files with one labelled text per line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from icecore.core.archives import archive_errors
from icecore.core.errors import DataError
from icecore.core.limits import limited_lines
from icecore.core.text import join_names, pluralize
from icecore.user_data.cell_types import can_parse
from icecore.user_data.notes import Note
from icecore.user_data.readers.column_roles import TEXT_NAMES
from icecore.user_data.readers.labels import label_target
from icecore.user_data.readers.source_files import ReadRequest, has_ending, list_data_files
from icecore.user_data.readers.text_files import open_text
from icecore.user_data.records import NumberNames, TextRecords

LINE_ENDINGS = (".txt", ".smi", ".smiles", ".log")
#: files of molecules, in which the molecule comes before its name or label
SMILES_ENDINGS = (".smi", ".smiles")
#: labels of more kinds are texts, unless texts are of even fewer kinds
MANY_LABELS = 20


def iterate_lines(path: Path, notes: list[Note] | None = None) -> Iterator[str]:
    """The lines of a text file without their line breaks; notes an unusual encoding. Raises DataError."""
    file, encoding = open_text(path)
    if notes is not None and encoding != "UTF-8":
        notes.append(("encoding", f"{path.name}: {encoding}"))
    with archive_errors(path), file:
        yield from (line.rstrip("\r\n") for line in limited_lines(file.readline, path))


def _texts_come_first(firsts: Sequence[str], seconds: Sequence[str], is_smiles: bool) -> bool:
    """Whether the parts before the tab are the texts: they differ in more rows, or are the longer ones of molecules."""
    pairs = [(first, second) for first, second in zip(firsts, seconds, strict=True) if first]
    if not pairs:
        return False
    is_number = [all(map(_is_number, {pair[side] for pair in pairs})) for side in (0, 1)]
    if is_number[0] != is_number[1]:
        return is_number[1]
    distinct = [len({pair[side] for pair in pairs}) for side in (0, 1)]
    if is_smiles and distinct[0] >= distinct[1]:
        return True
    # texts may be repeated too, so the difference must be a large one
    return distinct[1] <= min(MANY_LABELS, len(pairs) / 2) and distinct[0] > max(MANY_LABELS, len(pairs) / 2)


def _is_header(labels: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether the first line is a usual name of a column of texts, beside a label that no other line has."""
    if len(texts) < 2 or texts[0].strip().lower() not in TEXT_NAMES:
        return False
    return not labels[0] or labels[0] not in labels[1:]


def _is_number(text: str) -> bool:
    return can_parse("number", text)


def read_lines(request: ReadRequest) -> TextRecords:
    """Read lines of `label<TAB>text`; for prediction lines of text alone are enough. Raises DataError."""
    labels: list[str] = []
    texts: list[str] = []
    splits: list[str] = []
    notes: list[Note] = []
    empty = 0
    files = list_data_files(request, LINE_ENDINGS)
    for path, split in files:
        is_smiles = has_ending(path.name, SMILES_ENDINGS)
        for number, line in enumerate(iterate_lines(path, notes), 1):
            label, tab, text = line.partition("\t")
            if is_smiles and not tab:
                label, tab, text = line.strip().partition(" ")
            if not line.strip():
                empty += 1
            elif tab or request.predicting:
                labels.append(label if tab else "")
                texts.append(text if tab else line)
                splits.append(split)
            else:
                raise DataError(
                    f"{path} line {number} has no tab. Each line must be label<TAB>text, but this one is {line[:30]!r}."
                )
    if _texts_come_first(labels, texts, has_ending(files[0][0].name, SMILES_ENDINGS)):
        # a line without a tab is a text alone
        pairs = [(text, label) if label else (label, text) for label, text in zip(labels, texts, strict=True)]
        labels, texts = [label for label, _ in pairs], [text for _, text in pairs]
        notes.append(("texts", "those before the tab; what follows are the labels"))
    if _is_header(labels, texts):
        notes.append(
            ("header", f"the first line names the columns: {join_names([*filter(None, labels[:1]), texts[0]])}")
        )
        labels, texts, splits = labels[1:], texts[1:], splits[1:]
    if request.predicting and len(set(labels)) == len(labels) > 1:
        labels = [""] * len(labels)  # names of the rows
    if empty:
        notes.append(("skipped", pluralize(empty, "empty line")))
    targets, label_notes = label_target(request, labels)
    return TextRecords(
        texts=texts,
        targets=targets,
        names=NumberNames(np.arange(len(texts))),
        splits=np.array(splits) if any(splits) else None,
        source={"format": "lines", "files": [path.name for path, _ in files]},
        notes=[*notes, *label_notes],
    )
