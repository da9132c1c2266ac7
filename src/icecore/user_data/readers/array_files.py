"""NumPy's files, whose headers are checked before NumPy believes them: it takes the memory that a header asks for."""

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from icecore.core.archives import check_zip_method
from icecore.core.errors import DataError, UserError
from icecore.core.limits import SizeCounter, check_cells
from icecore.core.text import reason
from icecore.tasks.data_files import check_texts

#: bytes of the longest header, which is parsed as Python code for a literal value
MAX_HEADER_BYTES = 10_000
ARRAY_MAGIC = b"\x93NUMPY"
#: the format of the header's length, by major version
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}


@contextmanager
def array_errors(path: Path) -> Iterator[None]:
    """Raise whatever reading arrays raises as a DataError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged headers raise nearly anything, a MemoryError of the parser included
        remedy = "It may be damaged or incomplete: download or copy it again."
        if "pickle" in str(error):
            remedy = "Save it as an array of numbers or fixed-length texts, not of Python objects."
        raise DataError(f"{path} cannot be read as an array ({reason(error)}). {remedy}") from error


def read_npy(path: Path) -> np.ndarray:
    """The array of a `.npy` file, of which only what is used is read. Raises DataError."""
    with array_errors(path):
        with path.open("rb") as file:
            check_cells(path, _check_header(file, path.name, path.stat().st_size))
        return _texts(np.load(path, mmap_mode="r", allow_pickle=False))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name. Raises nearly anything for a damaged file (`array_errors`)."""
    with zipfile.ZipFile(path) as archive:
        counter, cells = SizeCounter(path), 0
        for item in archive.infolist():
            counter.add(item.file_size)
            check_zip_method(item, path)
            with archive.open(item) as file:
                cells += _check_header(file, item.filename, item.file_size)
        check_cells(path, cells)
    # opened here, because np.load would leave a damaged file open
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return {name: _texts(stored[name]) for name in stored.files}


def _check_header(file: Any, name: str, size: int) -> int:
    """The number of cells of an array.

    Raises ValueError or what NumPy raises for an array that is not in a file of `size` bytes.
    """
    start = file.read(12)
    if len(start) < 12 or start[:6] != ARRAY_MAGIC or start[6] not in _LENGTHS:
        raise ValueError(f"{name} is not an array")
    (length,) = struct.unpack_from(_LENGTHS[start[6]], start, 8)
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"{name} has a header of {length:,} bytes")
    header = _Rest(start[8:], file)
    reader = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(header)
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{name} has the shape {shape}")
    if dtype.itemsize == 0 or (0 in shape[1:] and shape[0] > 0):
        raise ValueError(f"{name} has rows without values: its shape is {shape} and its type {dtype}")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{name} has the shape {shape}, but only {size:,} bytes")
    return math.prod(shape)


class _Rest:
    """An open file with the bytes before it that were read already."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self.start, self.file = start, file

    def read(self, size: int = 0, /) -> bytes:
        taken, self.start = self.start[:size], self.start[size:]
        return taken + self.file.read(size - len(taken))


def _texts(array: np.ndarray) -> np.ndarray:
    """The array, with bytes as texts. Raises ValueError for texts that are none."""
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    check_texts(array)
    return array
