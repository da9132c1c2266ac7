"""Images that a column of a table names: by path, by name, or by name without its ending, as ids often do."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import join_names, pluralize
from icecore.user_data.column_table import ColumnTable
from icecore.user_data.columns import Column
from icecore.user_data.data_archives import iterate_files
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.image_decoding import IMAGE_SUFFIXES, ImageFiles, is_image
from icecore.user_data.readers.source_files import ReadRequest
from icecore.user_data.row_counters import ID_NAME
from icecore.user_data.split_names import NO_SPLIT, split_of_name

#: names that are looked up to find out whether a column names images
NAMES_LOOKED_UP = 100
#: levels of folders below that of a table, and files in them, among which images are looked up
LEVELS_LOOKED_UP, FILES_LOOKED_UP = 3, 200_000
#: a column of names without endings names images if at least this share of those looked up exist, and as many differ
NAMED_SHARE = 0.8


def take_images(request: ReadRequest, table: ColumnTable) -> ImageFiles | None:
    """The images that a column names, which is removed from the table; None if there is no such column.

    They are in the table's folder or in folders inside it. Raises DataError if names with the ending of an image are
    not there, or if one may mean several images.
    """
    settings, columns = request.settings, table.columns
    if settings.kind not in ("auto", "images"):
        return None
    candidates = [columns[settings.column]] if settings.column in columns else list(columns.values())
    candidates = [column for column in candidates if column.name not in settings.target]
    named = next((column for column in candidates if _has_image_endings(column)), None)
    base = request.path if request.path.is_dir() else request.path.parent
    unnamed = [column for column in candidates if _may_name_images(column)]
    if named is None and not unnamed:
        return None
    index = _index_images(base, named)
    best = named or _best_match(unnamed, index)
    if best is None:
        return None
    names = _labels(best).distinct_texts
    if not any(_find(name, index, base) for name in names[:NAMES_LOOKED_UP]):
        raise DataError(
            f"{request.path}: column {best.name!r} names images such as {names[0]}, but they are neither in {base} "
            f"nor in a folder inside it. Put them there, or leave the column out: --drop {best.name!r}"
        )
    del columns[best.name]
    file_of = {name: _find(name, index, base, settings.column or best.name) or name for name in names}
    found = sum(file_of[name] != name or (base / name).is_file() for name in names)
    table.notes.append(("images", f"{pluralize(found, 'image')} that column {best.name!r} names, in {base}"))
    return ImageFiles(base, [file_of.get(text, "") for text in _labels(best).row_texts()], settings.strict)


def splits_of_folders(names: Sequence[str], settings: DataSettings) -> np.ndarray | None:
    """The split (N,) that a folder of each image names; None if some are in no such folder."""
    if settings.split == NO_SPLIT:
        return None
    splits = [next(filter(None, map(split_of_name, name.split("/")[:-1])), "") for name in names]
    known = [split for split, name in zip(splits, names, strict=True) if name]
    return np.array(splits) if all(known) and len(set(known)) > 1 else None


def _labels(column: Column) -> Column:
    return column if column.type == "text" else column.as_labels()


def _has_image_endings(column: Column) -> bool:
    texts = column.distinct_texts if column.type == "text" else []
    return bool(texts) and all(text.lower().endswith(IMAGE_SUFFIXES) for text in texts)


def _index_images(base: Path, named: Column | None) -> Mapping[str, list[str]]:
    """The images in a folder, by each path, name, and name without ending that may stand for them."""
    if named is not None and all((base / name).is_file() for name in named.distinct_texts[:NAMES_LOOKED_UP]):
        return {}
    index: dict[str, list[str]] = {}
    # a table may lie in a folder full of other things, such as a home folder
    for file in itertools.islice(iterate_files(base, LEVELS_LOOKED_UP, skip_unreadable=True), FILES_LOOKED_UP):
        relative = file.relative_to(base).as_posix()
        if is_image(relative):
            parts = relative.split("/")
            keys = {"/".join(parts[first:]) for first in range(len(parts))}
            keys |= {key.rpartition(".")[0] for key in keys}
            for key in keys:
                index.setdefault(key, []).append(relative)
    return index


def _find(name: str, index: Mapping[str, list[str]], base: Path, column: str = "") -> str:
    """The image that a cell names, relative to `base`; "" if there is none. Raises DataError if there are several."""
    name = name.replace("\\", "/").removeprefix("./")
    if (base / name).is_file():
        return name
    found = index.get(name, [])
    if len(found) > 1 and column:
        raise DataError(
            f"{base}: {name!r} of column {column!r} may be {join_names(found, 3)}. Write the folder of each image too."
        )
    return found[0] if found else ""


def _may_name_images(column: Column) -> bool:
    """Whether a column may hold names without endings: texts that differ, or numbers in a column named like ids."""
    if column.type == "date" or column.levels is None:
        return False
    if column.type == "number" and not ID_NAME.fullmatch(column.name):
        return False  # 127 may be any number, and there are many images called 127.png
    labels = _labels(column)
    return len(labels.distinct_texts) >= NAMED_SHARE * len(labels.values)


def _best_match(candidates: Sequence[Column], index: Mapping[str, list[str]]) -> Column | None:
    """The first column most of whose cells are names of images without ending, and that names several."""
    for column in candidates if index else ():
        names = _labels(column).distinct_texts[:NAMES_LOOKED_UP]
        found = {index[name.replace("\\", "/")][0] for name in names if name.replace("\\", "/") in index}
        if len(found) > 1 and len(found) >= NAMED_SHARE * len(names):
            return column
    return None
