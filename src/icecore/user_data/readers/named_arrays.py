"""Which array of a NumPy file does what, by its name: X, y, x_train, yTest, train_images, val_labels and the like."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from icecore.core.errors import DataError, unknown_name
from icecore.core.text import join_names
from icecore.tasks.data_files import find_first
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.notes import Note
from icecore.user_data.readers.array_files import array_errors, read_npy, read_npz
from icecore.user_data.split_names import SPLIT_WORDS, SPLITS

#: names of arrays of inputs and of targets, the most likely ones first
INPUT_ARRAYS = ("x", "data", "inputs", "input", "images", "series", "features")
TARGET_ARRAYS = ("y", "target", "targets", "label", "labels")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: xtrain is x and train
_TOGETHER = re.compile(rf"([xy])({'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})")


class ArrayName(NamedTuple):
    """The name of an array in small letters without the word of a split, and the split, "" if it names none."""

    base: str
    split: str

    @classmethod
    def read(cls, name: str) -> "ArrayName":
        """
        >>> [tuple(ArrayName.read(name)) for name in ("X", "y_train", "valImages", "test_labels", "xtest", "ids")]
        [('x', ''), ('y', 'train'), ('images', 'val'), ('labels', 'test'), ('x', 'test'), ('ids', '')]
        """
        words = [word.lower() for word in _WORD.findall(name)]
        if len(words) == 1 and (match := _TOGETHER.fullmatch(words[0])):
            words = [match[1], match[2]]
        splits = [word for word in (*words[:1], *words[1:][-1:]) if word in SPLIT_WORDS]
        if len(splits) != 1 or len(words) < 2:
            return cls(name.lower(), "")
        words.remove(splits[0])
        return cls("_".join(words), SPLIT_WORDS[splits[0]])


class ArrayPart(NamedTuple):
    """The inputs of one split, "" if the file has none, and their targets, None if it has none."""

    split: str
    X: np.ndarray
    y: np.ndarray | None


def load_parts(path: Path, settings: DataSettings, predicting: bool) -> tuple[list[ArrayPart], list[Note]]:
    """The arrays of `.npz`, or of `.npy` and the files beside it, and a note of those that are not used.

    Raises DataError if they cannot be read or there are no inputs, ConfigError for a target that is not among them.
    """
    arrays = _load_npz(path) if path.suffix.lower() == ".npz" else _load_npy(path, predicting)
    names = {name: ArrayName.read(name) for name in arrays}
    wanted = settings.target[:1] if len(settings.target) == 1 else ()
    targets = (*map(str.lower, wanted), *TARGET_ARRAYS)
    parts: list[ArrayPart] = []
    used: set[str] = set()
    for split in ("", *SPLITS):
        X, y = (_find(names, each, split) for each in (INPUT_ARRAYS, targets))
        if X is not None:
            parts.append(ArrayPart(split, arrays[X], None if y is None else arrays[y]))
            used |= {X, *([] if y is None else [y])}
    if not parts:
        raise DataError(f"{path} must have the arrays X and y, but has: {join_names(sorted(arrays))}.")
    found = {names[name].base for name in used} - set(INPUT_ARRAYS)
    has_names = path.suffix.lower() == ".npz"
    if wanted and has_names and not predicting and found and wanted[0].lower() not in found:
        columns = [part.y for part in parts if part.y is not None]
        if columns and columns[0].ndim == 1:  # otherwise the setting names its columns
            raise unknown_name("target", wanted[0], sorted({each.base for each in names.values()} - set(INPUT_ARRAYS)))
    unused = sorted(set(arrays) - used)
    return parts, [("left out", f"arrays {join_names(unused)}: not used")] if unused else []


def _find(names: Mapping[str, ArrayName], bases: Sequence[str], split: str) -> str | None:
    """The array of this split with the first of these names that there is."""
    return next((name for base in bases for name, each in names.items() if each == (base, split)), None)


def _load_npz(path: Path) -> Mapping[str, np.ndarray]:
    with array_errors(path):
        return read_npz(path)


def _load_npy(path: Path, predicting: bool) -> Mapping[str, np.ndarray]:
    """The array of a file as x, and y if it lies beside it; or all arrays beside it, if its name has a split."""
    inputs = ArrayName.read(path.stem)
    if inputs.split and inputs.base in INPUT_ARRAYS:
        beside = split_files(path)
        if predicting:
            beside = [file for file in beside if file == path or ArrayName.read(file.stem).split == inputs.split]
        return {file.stem: read_npy(file) for file in beside}
    target_path = find_first([path.parent], [name for name in target_file_names(path) if name != path.name])
    return {"x": read_npy(path)} | ({} if target_path is None else {"y": read_npy(target_path)})


def split_files(path: Path) -> list[Path]:
    """The files beside one such as X_train.npy, itself among them, that hold inputs or targets of a split."""
    names = {file: ArrayName.read(file.stem) for file in sorted(path.parent.glob("*.npy"))}
    inputs = ArrayName.read(path.stem).base
    return [file for file, name in names.items() if name.split and name.base in (inputs, *TARGET_ARRAYS)]


def target_file_names(path: Path) -> list[str]:
    """The names that a file of targets beside a `.npy` file may have."""
    return [f"{path.stem}_y.npy", f"{path.stem}.y.npy", "y.npy", "labels.npy", "targets.npy"]
