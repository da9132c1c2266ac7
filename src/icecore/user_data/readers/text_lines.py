"""Text files with one labelled text per line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from icecore.core.archives import archive_errors
from icecore.core.errors import DataError
from icecore.core.limits import limited_lines
from icecore.core.text import pluralize
from icecore.user_data.notes import Note
from icecore.user_data.readers.labels import label_target
from icecore.user_data.readers.source_files import ReadRequest, list_data_files
from icecore.user_data.readers.text_files import open_text
from icecore.user_data.records import NumberNames, TextRecords

LINE_ENDINGS = (".txt", ".smi", ".log")


def iterate_lines(path: Path) -> Iterator[str]:
    """The lines of a text file without their line breaks. Raises DataError."""
    file, _ = open_text(path)
    with archive_errors(path), file:
        yield from (line.rstrip("\r\n") for line in limited_lines(file.readline, path))


def read_lines(request: ReadRequest) -> TextRecords:
    """Read lines of `label<TAB>text`; for prediction lines of text alone are enough. Raises DataError."""
    labels: list[str] = []
    texts: list[str] = []
    splits: list[str] = []
    notes: list[Note] = []
    empty = 0
    files = list_data_files(request, LINE_ENDINGS)
    for path, split in files:
        for number, line in enumerate(iterate_lines(path), 1):
            label, tab, text = line.partition("\t")
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
