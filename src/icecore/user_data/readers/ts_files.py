"""What aeon's loaders change in files of the archives, read as it is written: labels, and series with time stamps.

aeon 1.6 turns the lines of a .ts file to small letters, and "nan" and "?" in them to "NaN", labels included. Of points
with time stamps it takes all numbers with a decimal point, without their signs.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.cell_types import parse_number
from icecore.user_data.readers.text_lines import iterate_lines

#: what stands before the label at the end of a line, by the ending of the file
LABEL_MARKS: Mapping[str, str] = {".ts": ":", ".arff": ","}
_POINT = re.compile(r"\(([^()]*),([^(),]*)\)")
_BETWEEN_VALUES = re.compile(r"(?<=\)):(?=\()")


def labels_as_written(path: Path) -> list[str]:
    """The label of each series, which ends its line."""
    mark = LABEL_MARKS[path.suffix.lower()]
    return [line.rpartition(mark)[2].strip() for _, line in _data_lines(path)]


def has_time_stamps(path: Path) -> bool:
    """Whether the header of a .ts file says that points have time stamps."""
    header = itertools.takewhile(_is_header, iterate_lines(path))
    return any(line.lower().split()[:2] == ["@timestamps", "true"] for line in header)


def read_time_stamped(path: Path) -> list[np.ndarray]:
    """The series (T, V) of a .ts file whose points are (time,value), in the order of the file. Raises DataError."""
    return [_read_series(f"{path} line {number}", line) for number, line in _data_lines(path)]


def _read_series(place: str, line: str) -> np.ndarray:
    inputs = line if line.endswith(")") else line.rpartition(":")[0]
    channels = [_POINT.findall(channel) for channel in _BETWEEN_VALUES.split(inputs)]
    if not all(channels):
        raise DataError(f"{place} has no points, such as (1,0.5) or (2024-05-06 07:08:09,0.5).")
    if any([time for time, _ in channel] != [time for time, _ in channels[0]] for channel in channels):
        raise DataError(f"{place}: the values of a series must have the same times, but these differ.")
    try:
        columns = [[parse_number(value.strip().strip("\"'")) for _, value in channel] for channel in channels]
    except ValueError as error:
        raise DataError(f"{place}: {error}. Each point must be (time,value).") from None
    return np.array(columns, np.float32).T


def _data_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that hold series."""
    yield from ((number, line.strip()) for number, line in enumerate(iterate_lines(path), 1) if not _is_header(line))


def _is_header(line: str) -> bool:
    """Whether a line is empty, a comment, or says something about the data."""
    return not line.strip() or line.lstrip().startswith(("@", "#", "%"))
