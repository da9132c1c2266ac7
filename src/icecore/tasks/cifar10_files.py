"""Reader of CIFAR-10 in any of its forms: the published batches, binary or pickled, or images in class folders."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import shortened
from icecore.tasks.class_folders import read_class_folders
from icecore.tasks.containers import matching_files
from icecore.tasks.data_files import FETCH_AGAIN, find_first, missing_data_error
from icecore.tasks.image_set import ImageSet, ImageSplit
from icecore.tasks.pickles import unpickle

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SHAPE = (3, 32, 32)  # as published: colour planes, rows, columns
CIFAR10_PIXELS = 3 * 32 * 32


def read_cifar10(roots: Sequence[Path]) -> ImageSet:
    """CIFAR-10 in the first form that is found. Raises DataError."""
    # A folder cifar10/ alone proves nothing, because the cache keeps decoded images in a folder of that name.
    candidates = [*_SOURCES, *(f"cifar10/{name}" for name in _SOURCES), "cifar10/train"]
    path = find_first(roots, candidates)
    if path is None:
        choices = [*_SOURCES, "cifar10/train/<class>/*.jpg, cifar10/test/<class>/*.jpg"]
        raise missing_data_error("cifar10", roots, choices)
    return read_class_folders(path.parent) if path.name == "train" else _SOURCES[path.name](path)


def read_binary(path: Path) -> ImageSet:
    """CIFAR-10's binary version: `data_batch_1.bin` ... in a folder or archive. Raises DataError."""
    return _read_batches(path, "binary", ".bin", _binary_batch)


def read_python(path: Path) -> ImageSet:
    """CIFAR-10's Python version: pickled `data_batch_1` ... in a folder or archive. Raises DataError."""
    return _read_batches(path, "python", "", _python_batch)


#: files and folders that may lie in a data folder or in its folder cifar10/, the published pixels before JPEG
_SOURCES: Mapping[str, Callable[[Path], ImageSet]] = {
    "cifar-10-batches-bin": read_binary,
    "cifar-10-batches-py": read_python,
    "cifar-10-binary.tar.gz": read_binary,
    "cifar-10-python.tar.gz": read_python,
    **{f"cifar10{ending}": read_class_folders for ending in ("-jpeg.tar.xz", ".tar.xz", ".tar.gz", ".tar", ".zip")},
}


def _read_batches(path: Path, form: str, suffix: str, decode: Callable[[bytes, str], ImageSplit]) -> ImageSet:
    """CIFAR-10 from its five training batches and its test batch, in a folder or archive."""
    names = [f"{name}{suffix}" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
    pattern = re.compile(rf"(?:.*/)?({'|'.join(map(re.escape, names))})")
    batches = {match[1]: decode(raw, f"{path}: {match[0]}") for match, raw in matching_files(path, pattern)}
    if missing := [name for name in names if name not in batches]:
        raise DataError(f"{path}: expected {', '.join(names)}, found no {', '.join(missing)}. {FETCH_AGAIN}")
    *train, test = (batches[name] for name in names)
    joined = ImageSplit(*(np.concatenate(arrays) for arrays in zip(*train, strict=True)))
    return ImageSet(joined, test, CIFAR10_CLASSES, {"format": form, "files": [path.name]})


def _binary_batch(raw: bytes, location: str) -> ImageSplit:
    """A batch of the binary version: records of one label byte and 3,072 pixel bytes."""
    record = 1 + CIFAR10_PIXELS
    if not raw or len(raw) % record:
        raise DataError(f"{location}: expected records of {record} bytes, found {len(raw)} bytes. {FETCH_AGAIN}")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, record)
    return ImageSplit.checked(_images(rows[:, 1:]), rows[:, 0], location)


def _python_batch(raw: bytes, location: str) -> ImageSplit:
    """A batch of the Python version: a pickled dict with data (N, 3072) uint8 and a list of labels."""
    batch = unpickle(raw, location, encoding="bytes")
    if not isinstance(batch, dict):
        raise DataError(f"{location}: expected a pickled dict, found {type(batch).__name__}. {FETCH_AGAIN}")
    fields = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    rows, labels = fields.get("data"), fields.get("labels")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != CIFAR10_PIXELS:
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else shortened(rows)
        raise DataError(f"{location}: expected data of uint8 (N, {CIFAR10_PIXELS}), found {found}. {FETCH_AGAIN}")
    # NumPy would follow lists in lists, which may name each other so often that no memory holds the result
    if not isinstance(labels, np.ndarray) and not (isinstance(labels, list) and all(type(n) is int for n in labels)):
        raise DataError(f"{location}: expected a list of labels, found {shortened(labels)}. {FETCH_AGAIN}")
    return ImageSplit.checked(_images(rows), labels, location)


def _images(planes: np.ndarray) -> np.ndarray:
    """Rows of 3,072 bytes, one colour plane after another (N, 3072), to images (N, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, *CIFAR10_SHAPE).transpose(0, 2, 3, 1))
