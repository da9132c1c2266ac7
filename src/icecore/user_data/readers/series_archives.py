"""Files of the time series archives: UCR tables with the label first, and the formats .ts and .arff, which aeon reads.

The archives publish a split in two files, NAME_TRAIN and NAME_TEST; naming the first one reads both.
"""

import importlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.cell_types import cell_parser, is_missing_word, parse_number
from icecore.user_data.columns import LARGEST_EXACT
from icecore.user_data.data_settings import DecimalMark
from icecore.user_data.notes import Note
from icecore.user_data.number_formats import find_number_format
from icecore.user_data.readers.labels import label_target
from icecore.user_data.readers.source_files import ReadRequest, has_ending
from icecore.user_data.readers.text_lines import iterate_lines
from icecore.user_data.readers.ts_files import has_time_stamps, labels_as_written, read_time_stamped
from icecore.user_data.records import NumberNames, SequenceRecords
from icecore.user_data.sequences import Sequences
from icecore.user_data.split_names import NO_SPLIT

#: series (T, V) of any lengths, and the label of each as text, "" if there is none
Loaded = tuple[list[np.ndarray], list[str]]
#: Name_TRAIN.tsv or TRAIN_Name.tsv: what comes before the split, the split, and what comes after it
_PUBLISHED = re.compile(
    r"(?=.*[_-])((?:.+[_-])?)(TRAIN|TEST)((?:[_-].+)?\.(?:(?:tsv|txt|csv)(?:\.gz)?|ts|arff))", re.IGNORECASE
)
#: a label and numbers between blanks, some of which have a decimal comma
_DECIMAL_COMMAS = re.compile(r"\s*\S+(?:\s+[+-]?\d+(?:,\d+)?)+\s*")
#: a line with fewer numbers is no series
MIN_POINTS = 8
#: lines that show how the numbers of a table are written
SHOWN_LINES = 50


def is_archive(path: Path) -> bool:
    """Whether a file is of a time series archive: by its ending, or a table NAME_TRAIN of labels and numbers."""
    if has_ending(path.name, tuple(AEON_LOADERS)):
        return True
    if not _PUBLISHED.fullmatch(path.name) or not path.is_file():
        return False
    line = next((line for line in iterate_lines(path) if line.strip()), "")
    label, *values = _cells(line, _delimiter(line))
    if len(values) < MIN_POINTS:
        return False
    if not all(map(_is_number, values)):
        return any(find_number_format(values))
    # above a table, the points in time may be counted: label, 0, 1, 2
    return _is_number(label) or any(b - a != 1 for a, b in itertools.pairwise(map(parse_number, values)))


def training_file(path: Path) -> Path:
    """The training file of the one archive data set in a folder; any other path as it is."""
    if not path.is_dir():
        return path
    found = [
        file
        for file in sorted(path.iterdir())
        if (match := _PUBLISHED.fullmatch(file.name)) and is_archive(file) and match[2].lower() == "train"
    ]
    # .ts and .arff hold the same data, where both are there
    return found[0] if len({file.stem for file in found}) == 1 else path


def published_test_name(path: Path) -> str | None:
    """The name, in any case, of the test split that is published with a training file; None for any other file."""
    match = _PUBLISHED.fullmatch(path.name)
    return f"{match[1]}TEST{match[3]}" if match and match[2].lower() == "train" else None


def read_archive(request: ReadRequest) -> SequenceRecords:
    """Read a file of an archive, and the published test split beside it. Raises DataError."""
    path = request.path
    files = [(path, "")]
    notes: list[Note] = []
    name = published_test_name(path)
    if name is not None and not request.predicting and request.settings.split != NO_SPLIT:
        other = next((file for file in sorted(path.parent.iterdir()) if file.name.lower() == name.lower()), None)
        if other is not None:
            files = [(path, "train"), (other, "test")]
            notes.append(("splits", f"{other.name} is the published test split (--split none leaves it out)"))
    rows: list[np.ndarray] = []
    labels: list[str] = []
    splits: list[str] = []
    for file, split in files:
        load = next((load for ending, load in AEON_LOADERS.items() if has_ending(file.name, (ending,))), None)
        series, found = _load_table(file, request.settings.decimal) if load is None else load(file)
        rows += series
        labels += found
        splits += [split] * len(series)
    if not any(labels) and not request.predicting:
        raise DataError(f"{path} has no labels. Each series needs one: a first column, or @classLabel in the header.")
    labels = _plain_labels(labels)
    targets, label_notes = label_target(request, labels)
    if not has_ending(path.name, tuple(AEON_LOADERS)):
        notes.append(("series", "the first column holds the labels, as in the UCR archive"))
    return SequenceRecords(
        sequences=Sequences.from_rows(rows),
        targets=targets,
        names=NumberNames(np.arange(len(rows))),
        splits=np.array(splits) if any(splits) else None,
        source={"format": path.suffix.lower()[1:], "files": [file.name for file, _ in files]},
        notes=[*notes, *label_notes],
    )


def _is_number(cell: str) -> bool:
    try:
        return not np.isnan(parse_number(cell)) or is_missing_word(cell)
    except ValueError:
        return False


def _plain_labels(labels: list[str]) -> list[str]:
    """The labels (N,), with 1.0000000e+00, as old files of the archive have it, as 1 if no two of them become one."""
    plain = {label: _whole_number(label) for label in set(labels)}
    if None in plain.values() or len(set(plain.values())) < len(plain):
        return labels
    return [plain[label] or "" for label in labels]


def _whole_number(label: str) -> str | None:
    """A whole number as people write it, "" for a missing label; None for any other label."""
    if is_missing_word(label):
        return ""
    try:
        number = parse_number(label)
    except ValueError:
        return None
    return str(int(number)) if number % 1 == 0 and abs(number) <= LARGEST_EXACT else None


def _delimiter(line: str) -> str:
    """What stands between the cells of this line and others: a tab, a semicolon or blanks; "" for commas or blanks."""
    found = next((mark for mark in "\t;" if mark in line), "")
    return found or (" " if _DECIMAL_COMMAS.fullmatch(line) else "")


def _cells(line: str, delimiter: str) -> list[str]:
    """The label and the numbers of a line. A first cell that is empty is a missing label."""
    if delimiter in ("\t", ";"):
        return [cell.strip() for cell in line.rstrip().split(delimiter)]
    return line.split() if delimiter else [cell.strip() for cell in re.split(r"\s*,\s*|\s+", line.strip())]


def _load_table(path: Path, decimal: DecimalMark) -> Loaded:
    """Lines of a label and numbers; missing values at the end of a line shorten its series. Raises DataError."""
    lines = [(number, line) for number, line in enumerate(iterate_lines(path), 1) if line.strip()]
    delimiter = _delimiter(lines[0][1]) if lines else ""
    rows = [(number, *_cells(line, delimiter)) for number, line in lines]
    parse = _number_parser(path, [cell for _, _, *cells in rows[:SHOWN_LINES] for cell in cells], decimal)
    series: list[np.ndarray] = []
    labels: list[str] = []
    for number, label, *cells in rows:
        try:
            values = np.array([parse(cell) for cell in cells], np.float32)
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}. Each line must hold a label and numbers.") from None
        present = np.flatnonzero(~np.isnan(values))
        series.append(values[: present[-1] + 1 if len(present) else 1, None])
        labels.append(label)
    return series, labels


def _number_parser(path: Path, cells: Sequence[str], decimal: DecimalMark) -> Callable[[str], float]:
    """What reads numbers that are written like these. Raises DataError if there are two readings."""
    present = [cell for cell in cells if not is_missing_word(cell)]
    if all(map(_is_number, present)):
        return parse_number
    number_format, reason = find_number_format(present, decimal)
    if reason:
        raise DataError(f"{path}: {reason}. Say which mark is before the decimals: --decimal point or comma.")
    return cell_parser("number", "" if number_format is None else str(number_format))


def import_loaders(path: Path) -> Any:
    """The module of aeon that reads `path`. Raises DataError with what is missing."""
    try:
        return importlib.import_module("aeon.datasets")
    except ImportError as error:
        missing = (error.name or "aeon").partition(".")[0]
        because = "" if missing == "aeon" else f", which is there but cannot be imported ({error})"
        raise DataError(f"Reading {path} needs aeon{because}: pip install 'icecore[timeseries]'") from error


def _load_with_aeon(path: Path, name: str) -> Loaded:
    """Series and labels as a loader of aeon gives them. Raises DataError without aeon, or for a file it cannot read."""
    datasets = import_loaders(path)
    try:
        X, y = getattr(datasets, name)(str(path))
    except Exception as error:  # aeon's loaders raise exceptions of many types
        raise DataError(f"{path} cannot be read by aeon ({error}). Check that the file is complete.") from error
    if not np.size(y):
        return [np.asarray(series, np.float32).T for series in X], [""] * len(X)
    labels = labels_as_written(path)
    if len(labels) != len(X):
        raise DataError(f"{path} has {len(X):,} series, but {len(labels):,} labels. Check that the file is complete.")
    return [np.asarray(series, np.float32).T for series in X], labels


def _load_ts(path: Path) -> Loaded:
    if not has_time_stamps(path):
        return _load_with_aeon(path, "load_from_ts_file")
    series, labels = read_time_stamped(path), labels_as_written(path)
    return series, ["" if label.endswith(")") else label for label in labels]


def _load_arff(path: Path) -> Loaded:
    return _load_with_aeon(path, "load_from_arff_file")


AEON_LOADERS: Mapping[str, Callable[[Path], Loaded]] = {".ts": _load_ts, ".arff": _load_arff}
