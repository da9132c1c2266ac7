"""Whatever lies at a path becomes `Records`: its kind is found out, then one reader reads it.

A table of readers, by kind; each says which names it understands. Splits that the data have (folders or
files called train, val, test; a column `split`) are kept.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.readers.arrays import read_array
from icecore.user_data.readers.images import ARCHIVES, ImageFiles, is_image, list_images
from icecore.user_data.readers.images import SUFFIXES as IMAGE_SUFFIXES
from icecore.user_data.readers.rows import read_rows, read_series
from icecore.user_data.readers.source import ReadRequest, ends, holds_rows, labels_beside
from icecore.user_data.readers.tables import FORMATS
from icecore.user_data.readers.texts import FASTA_ENDINGS, STRING_ENDINGS, read_fasta, read_strings
from icecore.user_data.records import ColumnType, DataSettings, RawRows, column_of, listed


class Kind(NamedTuple):
    """A kind of data: the endings of its files, and its reader."""

    endings: tuple[str, ...]
    read: Callable[[ReadRequest], RawRows]


def read(
    path: Path, settings: DataSettings, types: Mapping[str, ColumnType] | None = None, predicting: bool = False
) -> tuple[str, RawRows]:
    """The kind of data at `path`, and its rows. Raises DataError, ConfigError."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    kind = settings.kind
    if kind == "auto" or (predicting and kind != "series"):
        # what was learned from an array or FASTA may be asked of a table or lines
        kind = _kind(path, None if kind == "auto" else kind)
    if kind == "table" and settings.series is not None:
        kind = "series"
    records = KINDS[kind].read(ReadRequest(path, settings, types or {}, predicting))
    if not len(records):
        raise DataError(f"{path}: holds no rows; expected at least one")
    return "images" if records.form == "images" else kind, records


def _kind(path: Path, default: str | None) -> str:
    """The kind whose endings the name has, or `default`; of a folder, the kind of most of its files."""
    if path.is_file():
        found = next((kind for kind, row in KINDS.items() if ends(path.name, row.endings)), default)
        if found is None:
            known = ", ".join(ending for row in KINDS.values() for ending in row.endings)
            raise DataError(f"{path}: its name does not say what it is; expected one of {known}, or name a --kind")
        return found
    names = [file.name for file in path.rglob("*") if file.is_file() and holds_rows(file.name)]
    if not names:
        raise DataError(f"{path}: is empty; expected one folder of images a class, or tables, arrays, FASTA")
    if any(is_image(name) for name in names):
        return "images"
    counts = {kind: sum(ends(name, row.endings) for name in names) for kind, row in KINDS.items()}
    best = max(counts, key=lambda kind: counts[kind])
    if not counts[best]:
        raise DataError(f"{path}: holds {listed(names, 3)}, none of a known kind; name a --kind")
    return best


def read_images(request: ReadRequest) -> RawRows:
    """Images by class, or named in a table; for prediction a single image or a flat folder will do."""
    path = request.path
    if ends(path.name, tuple(FORMATS)):
        return read_rows(request)
    if path.is_file() and is_image(path.name):
        files = ImageFiles(path.parent, [path.name], request.settings.strict)
        return RawRows("images", files, {}, files.names, None, {"format": "images", "files": [path.name]})
    found = list_images(path)
    files = ImageFiles(path, found.names, request.settings.strict)
    flat = not all(found.classes)
    if len(set(found.classes)) < 2 and (labels := labels_beside(path)) is not None:
        return read_rows(request._replace(path=labels))
    if flat and not request.predicting:
        example = found.names[list(found.classes).index("")]
        raise DataError(
            f"{path}: {example} lies in no class's folder; expected one folder of images a class, "
            "or a labels.csv with the columns file,label"
        )
    name = request.settings.target[0] if request.settings.target else "class"
    targets = {} if flat else {name: column_of(name, np.array(found.classes))}
    splits = np.array(found.splits) if any(found.splits) else None
    return RawRows("images", files, targets, found.names, splits, {"format": "images", "files": [path.name]})


KINDS: Mapping[str, Kind] = {
    "images": Kind((*ARCHIVES, *IMAGE_SUFFIXES), read_images),
    "table": Kind(tuple(FORMATS), read_rows),
    "array": Kind((".npy", ".npz"), read_array),
    "fasta": Kind(FASTA_ENDINGS, read_fasta),
    "strings": Kind(STRING_ENDINGS, read_strings),
    "series": Kind((), read_series),
}
