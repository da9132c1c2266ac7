"""What readers of one's own data share: the request, and the files of a folder with the splits they name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from icecore.core.errors import DataError
from icecore.tasks.data_files import find_first
from icecore.user_data.records import SPLIT_NAMES, ColumnType, DataSettings


class ReadRequest(NamedTuple):
    """What a reader gets. `types` are those of columns seen in training; `predicting`: targets may be absent."""

    path: Path
    settings: DataSettings
    types: Mapping[str, ColumnType]
    predicting: bool


def ends(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file's name has one of the endings, gzipped or not."""
    return name.lower().removesuffix(".gz").endswith(endings) or name.lower().endswith(endings)


def holds_rows(name: str) -> bool:
    """Whether a file of this name holds rows: it is not hidden, and no table of labels beside the rows."""
    return not name.startswith(".") and not re.search(r"(^|[._-])labels\.[ct]sv", name.lower())


def labels_beside(path: Path) -> Path | None:
    """The table of labels beside a file, or in or beside a folder: `labels.csv`, or `NAME.labels.csv`; or .tsv."""
    stem = path.name.split(".")[0]
    names = [f"{start}labels{ending}" for start in (f"{stem}.", f"{stem}_", "") for ending in (".csv", ".tsv")]
    return find_first([path, path.parent] if path.is_dir() else [path.parent], names)


def parts(request: ReadRequest, endings: tuple[str, ...]) -> list[tuple[Path, str]]:
    """The files to read, by name, each with the split that its name says ("" for none)."""
    path = request.path
    if path.is_file():
        return [(path, "")]
    files = sorted(file for file in path.iterdir() if file.is_file() and ends(file.name, endings))
    files = [file for file in files if holds_rows(file.name)]
    if not files:
        raise DataError(f"{path}: found no files called {', '.join(f'*{ending}' for ending in endings)}")
    splits = [SPLIT_NAMES.get(re.split(r"[._-]", file.name.lower())[0], "") for file in files]
    return list(zip(files, splits, strict=True))
