"""The usual names of splits: of folders and files, and of the cells of a column that says where each row belongs."""

import re
from collections.abc import Mapping
from pathlib import PurePath

from icecore.core.errors import ConfigError
from icecore.core.text import join_names

SPLITS = ("train", "val", "test")
#: the split that each word means
SPLIT_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
#: names of a column with the split of each row
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold", "usage")
#: value of the setting that makes names of splits ordinary names
NO_SPLIT = "none"

#: words that add nothing to the name of a split: training_set, test images, TrainData
_FILLERS = (
    "datasets",
    "dataset",
    "data",
    "sets",
    "set",
    "split",
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "photos",
)
_FILLERS += ("samples", "files", "examples", "folder", "x", "y", "seq", "seqs", "sequences", "labels", "features")
#: a column that says of each row whether it belongs to a split
_TRUTH_COLUMN = re.compile(r"(?:is|in)[_ ]?([a-z]+)", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def split_of_name(name: str) -> str:
    """The split that a folder or a cell names, or "" if it is no usual name of one.

    >>> [split_of_name(name) for name in ("training_set", "Test", "valImages", "hold-out", "trainer", "contest")]
    ['train', 'test', 'val', 'test', '', '']
    """
    words = _words(name.replace("hold-out", "holdout").replace("hold_out", "holdout"))
    words = [word for word in words if word not in _FILLERS and not word.isdecimal()]
    return SPLIT_WORDS.get(words[0], "") if len(words) == 1 else ""


def split_of_cell(column: str, cell: str) -> str:
    """The split that a cell names, or "". In a column such as `is_test`, it is a truth value.

    >>> split_of_cell("split", "Test"), split_of_cell("is_test", "1"), split_of_cell("is_valid", "False")
    ('test', 'test', 'train')
    """
    if (match := _TRUTH_COLUMN.fullmatch(column.strip())) is None:
        return split_of_name(cell)
    split, word = split_of_name(match[1]), cell.strip().lower()
    if not split or word not in ("true", "false", "1", "0", "1.0", "0.0"):
        return ""
    is_true = word in ("true", "1", "1.0")
    return split if is_true else "test" if split == "train" else "train"


def split_of_file(name: str) -> str:
    """The split that the name of a file begins or ends with, or "": train-2.csv, GunPoint_TEST.tsv."""
    stem = PurePath(name).name.split(".")[0]
    words = [word for word in _words(stem) if not word.isdecimal()]
    known = [SPLIT_WORDS[word] for word in (*words[:1], *words[-1:]) if word in SPLIT_WORDS]
    return split_of_name(stem) or (known[0] if len(set(known)) == 1 else "")


def _words(name: str) -> list[str]:
    words: list[str] = []
    for word in map(str.lower, _WORD.findall(name)):
        for filler in _FILLERS:
            # trainset is train and set, but dataset is no "data"
            if word not in SPLIT_WORDS and word.removesuffix(filler) in SPLIT_WORDS:
                word = word.removesuffix(filler)
        words.append(word)
    return words


def read_split_setting(text: str) -> dict[str, str] | None:
    """The split of each name in a setting such as "a=train,b=test", or None for one without "=". Raises ConfigError."""
    if "=" not in text:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    unknown = [value.strip() for _, _, value in pairs if value.strip() not in SPLITS]
    if unknown:
        raise ConfigError(f"split: {join_names(unknown)} must be one of {', '.join(SPLITS)}, as in a=train,b=test.")
    return {name.strip(): value.strip() for name, _, value in pairs}
