"""The files of a folder that hold the data, and the request that every reader gets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from icecore.core.errors import DataError
from icecore.user_data.columns import ColumnType
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.splits import SPLIT_NAMES


class ReadRequest(NamedTuple):
    """What a reader gets.

    types       column types of the training data, by name; empty when the training data themselves are read
    predicting  the rows are for prediction, so they need no targets
    """

    path: Path
    settings: DataSettings
    types: Mapping[str, ColumnType]
    predicting: bool


def has_ending(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file name has one of the endings, with or without ".gz" after it."""
    return name.lower().removesuffix(".gz").endswith(endings) or name.lower().endswith(endings)


def is_data_file(name: str) -> bool:
    """Whether a file with this name can hold rows: hidden files and tables of labels do not."""
    return not name.startswith(".") and not re.search(r"(^|[._-])labels\.[ct]sv", name.lower())


def list_data_files(request: ReadRequest, endings: tuple[str, ...]) -> list[tuple[Path, str]]:
    """The files to read in order of name, each with the split that its name starts with, or "".

    Raises DataError if a folder has no file with one of the endings.
    """
    path = request.path
    if path.is_file():
        return [(path, "")]
    files = sorted(file for file in path.iterdir() if file.is_file() and has_ending(file.name, endings))
    files = [file for file in files if is_data_file(file.name)]
    if not files:
        raise DataError(f"{path} has no files named {', '.join(f'*{ending}' for ending in endings)}.")
    splits = [SPLIT_NAMES.get(re.split(r"[._-]", file.name.lower())[0], "") for file in files]
    return list(zip(files, splits, strict=True))
