"""Reader of MNIST's idx files, gzipped or not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError
from icecore.tasks.data_files import FETCH_AGAIN, find_first, missing_data_error, read_bytes
from icecore.tasks.image_set import ImageSet, ImageSplit

MNIST_FOLDERS = ("mnist", "MNIST/raw", ".")


def _file_names(part: str, kind: str, axes: int) -> list[str]:
    return [f"{part}-{kind}{joint}idx{axes}-ubyte{ending}" for joint in "-." for ending in ("", ".gz")]


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array of an idx file with `axes` axes, gzipped or not (LeCun's format). Raises DataError."""
    raw = read_bytes(path)
    magic, header = bytes([0, 0, 8, axes]), 4 + 4 * axes
    if raw[:4] != magic or len(raw) < header:
        raise DataError(
            f"{path}: expected an idx file of bytes with {axes} axes (magic number {magic.hex()}), "
            f"found {len(raw)} bytes starting with {raw[:4].hex() or 'nothing'}. {FETCH_AGAIN}"
        )
    shape = tuple(np.frombuffer(raw, ">u4", axes, 4).tolist())
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise DataError(f"{path}: expected {expected} bytes for shape {shape}, found {len(raw)}. {FETCH_AGAIN}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def read_mnist(roots: Sequence[Path]) -> ImageSet:
    """MNIST from its four idx files, in the first folder that has the training images. Raises DataError."""
    folders = [root / name for root in roots for name in MNIST_FOLDERS]
    names = _file_names("train", "images", 3)
    first = find_first(folders, names)
    if first is None:
        raise missing_data_error("mnist", roots, [f"mnist/{name} (and the other three files)" for name in names])
    splits: list[ImageSplit] = []
    files: list[str] = []
    for part in ("train", "t10k"):
        arrays: list[np.ndarray] = []
        for kind, axes in (("images", 3), ("labels", 1)):
            names = _file_names(part, kind, axes)
            path = find_first([first.parent], names)
            if path is None:
                raise DataError(f"{first.parent}: found {first.name}, but not {' or '.join(names)}. Put it beside it.")
            arrays.append(read_idx(path, axes))
            files.append(path.name)
        images, labels = arrays
        if images.shape[1:] != (28, 28):
            raise DataError(f"{first.parent / files[-2]}: expected images of (28, 28), found {images.shape[1:]}")
        splits.append(ImageSplit.checked(images[..., None], labels, f"{first.parent / files[-1]}"))
    return ImageSet(splits[0], splits[1], tuple("0123456789"), {"format": "idx", "files": files})
