"""Images that lie in the cells of a table rather than in files of their own."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from icecore.user_data.image_decoding import ImageFiles


class EmbeddedImages(ImageFiles):
    """Encoded images in memory, named by their numbers."""

    def __init__(self, path: Path, raw: Sequence[bytes], strict: bool) -> None:
        super().__init__(path, [str(number) for number in range(len(raw))], strict)
        self.raw = raw

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of these images."""
        for name in names:
            yield name, self.raw[int(name)]

    def content_codes(self) -> np.ndarray:
        """A code (N,) of each image, equal for equal bytes."""
        return np.unique(list(map(hash, self.raw)), return_inverse=True)[1]
