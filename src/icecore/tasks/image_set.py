"""Images and labels as they were stored, whatever file format they came from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from icecore.core.errors import DataError
from icecore.tasks.data_files import FETCH_AGAIN


class ImageSplit(NamedTuple):
    """Images (N, H, W, C) uint8 with C colour channels, and their labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def checked(cls, images: np.ndarray, labels: Any, location: str) -> "ImageSplit":
        """The split. Raises DataError naming `location` unless there is one label from 0 to 9 for each image."""
        values = np.asarray(labels)
        if values.shape != (len(images),) or not np.issubdtype(values.dtype, np.integer):
            raise DataError(
                f"{location}: expected {len(images)} integer labels, found {values.dtype} {values.shape}. {FETCH_AGAIN}"
            )
        wrong = values[(values < 0) | (values > 9)]
        if wrong.size:
            raise DataError(f"{location}: expected labels 0 to 9, found {wrong[0]}. {FETCH_AGAIN}")
        return cls(images, values.astype(np.int64))


@dataclass(frozen=True)
class ImageSet:
    """A whole data set; `origin` says what was read: the format, the files, and perhaps a remark."""

    train: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]
    origin: Mapping[str, Any]

    def sha256(self) -> str:
        """Checksum of the decoded images and labels, which is the same for every archive and format."""
        state = hashlib.sha256()
        for array in (*self.train, *self.test):
            state.update(f"{array.dtype} {array.shape}\n".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()
