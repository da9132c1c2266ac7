"""The files of a folder that hold the data, and the request that every reader gets."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from icecore.core.errors import DataError
from icecore.core.text import join_names, pluralize
from icecore.user_data.columns import ColumnType
from icecore.user_data.data_archives import iterate_files
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.notes import Note
from icecore.user_data.split_names import NO_SPLIT, read_split_setting, split_of_file, split_of_name


class ReadRequest(NamedTuple):
    """What a reader gets.

    types       column types of the training data, by name; empty when the training data themselves are read
    predicting  the rows are for prediction, so they need no targets
    formats     how numbers and dates of columns of the training data are written, unless plainly
    """

    path: Path
    settings: DataSettings
    types: Mapping[str, ColumnType]
    predicting: bool
    formats: Mapping[str, str] = {}


def has_ending(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file name has one of the endings, with or without ".gz" after it."""
    return name.lower().removesuffix(".gz").endswith(endings) or name.lower().endswith(endings)


def is_data_file(name: str) -> bool:
    """Whether a file with this name can hold rows: hidden files and tables of labels do not."""
    return not name.startswith((".", "_")) and not re.search(r"(^|[._-])labels\.[ct]sv", name.lower())


def is_submission(name: str) -> bool:
    """Whether a file shows how to submit predictions to a contest: it has ids and made-up targets."""
    return bool(re.search(r"sample[._ -]?submission|submission[._ -]?(sample|format)", name.lower()))


def _usable(files: Sequence[Path], endings: tuple[str, ...]) -> list[Path]:
    """The files with rows to learn from."""
    named = [file for file in files if has_ending(file.name, endings)]
    return [file for file in named if is_data_file(file.name) and not is_submission(file.name)]


def _split_of(file: Path, base: Path) -> str:
    """The split that the name of a file says, or else that of a folder above it."""
    folders = file.relative_to(base).parts[:-1]
    return split_of_file(file.name) or next(filter(None, map(split_of_name, folders)), "")


def notes_on_folder(request: ReadRequest, files: Sequence[Path]) -> list[Note]:
    """Notes of files in a folder that are not read, and of names of folders that say nothing: they might be classes."""
    base = request.path
    if request.predicting or not base.is_dir():
        return []
    notes: list[Note] = []
    read = set(files)
    others = [file for file in iterate_files(base) if file not in read and is_data_file(file.name)]
    if others := [str(file.relative_to(base)) for file in others if not is_submission(file.name)]:
        notes.append(("left out", f"{pluralize(len(others), 'other file')} in the folder: {join_names(others, 3)}"))
    names = [file.relative_to(base).parts[:-1] for file in files]
    said = {part for parts in names for part in parts if "=" not in part and not split_of_name(part)}
    if len(set(names)) > 1 and said:
        message = f"the names of the folders {join_names(sorted(said), 3)}: rename them, as in class={min(said)}, to"
        notes.append(("left out", f"{message} learn them"))
    return notes


def list_data_files(request: ReadRequest, endings: tuple[str, ...]) -> list[tuple[Path, str]]:
    """The files to read in order of name, each with the split that its name begins or ends with, or "".

    Raises DataError if a folder has no file with one of the endings.
    """
    path = request.path
    if path.is_file():
        return [(path, "")]
    files = _usable(sorted(file for file in path.iterdir() if file.is_file()), endings)
    files = files or _usable(list(iterate_files(path)), endings)  # parts in folders such as year=2024
    if not files:
        raise DataError(f"{path} has no files named {', '.join(f'*{ending}' for ending in endings)}.")
    setting = request.settings.split
    given = None if setting is None else read_split_setting(setting)
    if given is not None:
        splits = [given.get(file.name, given.get(file.name.split(".")[0], "")) for file in files]
    else:
        splits = [_split_of(file, path) if setting != NO_SPLIT else "" for file in files]
    # files for training come first, because the first file decides the columns
    return sorted(zip(files, splits, strict=True), key=lambda pair: ("train", "", "val", "test").index(pair[1]))
