"""Decodes images of any size and mode into one array of square images with 8 bits per channel.

Each image is decoded directly into its row of that array, which is in memory or, if memory is too small, in a
memory-mapped temporary file.
"""

import hashlib
import io
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from icecore.core.device import total_memory
from icecore.core.errors import DataError
from icecore.core.limits import UnpackedSizeError, count_pixels
from icecore.core.storage import storage_errors
from icecore.core.text import join_names
from icecore.user_data.data_archives import read_files

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: what Pillow may take a file for, whatever its name is: it would give PostScript to another program, which runs it
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
#: images that are inspected to choose the side and the number of channels
INSPECTED_IMAGES = 64
#: share of the machine's memory up to which decoded images are kept in memory
IMAGE_MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class ImageInspection:
    """What a few images look like: median of their shorter sides in pixels, whether any has colour, and in words.

    white  the number that is white, if images have more than 8 bits: 4095 if none of them is brighter
    """

    shorter_side: int
    has_colour: bool
    description: str
    white: float | None = None


@dataclass
class ImageFiles:
    """Images in a folder or archive, decoded when needed. `unreadable` collects (name, reason) of those that fail."""

    path: Path
    names: Sequence[str]
    strict: bool = False
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of these images, in any order."""
        return read_files(self.path, names)

    def content_codes(self) -> np.ndarray:
        """A code (N,) of each image, equal for a file that is named twice, and for files of equal bytes."""
        chosen = set(self.names)
        if self.path.is_dir():
            sizes = {name: file.stat().st_size for name in chosen if (file := self.path / name).is_file()}
            counts = Counter(sizes.values())
            # only files of one size can be equal, so that few are read for this
            chosen = {name for name, size in sizes.items() if counts[size] > 1}
        digests = {name: hashlib.sha256(raw).hexdigest() for name, raw in self.read(chosen) if raw}
        return np.unique([digests.get(name, name) for name in self.names], return_inverse=True)[1]

    def inspect(self) -> ImageInspection:
        """Look at a few images, evenly spaced. Raises DataError if none can be read."""
        from PIL import Image

        indices = np.unique(np.linspace(0, len(self) - 1, min(INSPECTED_IMAGES, len(self))).astype(int))
        chosen = {self.names[int(index)] for index in indices}
        sizes: list[tuple[int, int]] = []
        modes: list[str] = []
        brightest = 0.0
        for name, raw in self.read(chosen):
            try:
                file = io.BytesIO(raw)
                with warnings.catch_warnings(action="ignore"), Image.open(file, formats=IMAGE_FORMATS) as image:
                    sizes.append(image.size)
                    modes.append(image.mode)
                    if is_deep(image.mode):
                        brightest = max(brightest, float(np.max(np.asarray(image))))
            except Exception as error:  # decoders raise exceptions of nearly any type
                self._skip(name, error)
        self.unreadable.clear()  # `decode` meets them again
        if not sizes:
            raise DataError(f"{self.path}: none of the {len(chosen)} images tried is readable. Check the image files.")
        shorter_side = int(np.median([min(size) for size in sizes]))
        shapes = [f"{w} x {h}" for w, h in sorted(set(sizes), key=sizes.count, reverse=True)]
        colour = any(mode not in ("1", "L", "LA", "I", "F") and not mode.startswith("I;") for mode in modes)
        description = f"sizes in pixels {join_names(shapes, 2)}; modes {join_names(sorted(set(modes)))}"
        if brightest <= 0 or brightest >= 2**16:
            return ImageInspection(shorter_side, colour, description)
        white = next(float(2**bits - 1) for bits in (8, 10, 12, 14, 16) if brightest < 2**bits)
        description += f"; brightness up to {brightest:g}, so white is {white:g}"
        return ImageInspection(shorter_side, colour, description, white)

    def decode(
        self, order: np.ndarray, side: int, channels: int, white: float | None = None
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Decode the images `order` (N,) to (n, S, S, C) uint8; also return the positions (n,) of the readable ones.

        Raises DataError if none is readable, or if strict and one is not.
        """
        positions_of: dict[str, list[int]] = {}  # a table may name an image twice
        for position, row in enumerate(map(int, order)):
            positions_of.setdefault(self.names[row], []).append(position)
        pixels = _allocate((len(order), side, side, channels))
        array = pixels.numpy()
        is_readable = np.zeros(len(order), bool)
        for name, raw in self.read(positions_of.keys()):
            try:
                array[positions_of[name]] = to_pixels(raw, side, channels, white)
                is_readable[positions_of[name]] = True
            except UnpackedSizeError:  # which is not about this image
                raise
            except Exception as error:  # decoders raise exceptions of nearly any type
                self._skip(name, error)
        readable = np.flatnonzero(is_readable)
        if not len(readable):
            name, reason = self.unreadable[0]
            raise DataError(f"{self.path}: none of {len(order):,} images is readable, for example {name} ({reason}).")
        if len(readable) < len(order):
            # moved forward in place, block by block, because the array may be larger than memory
            for first in range(0, len(readable), 1024):
                block = readable[first : first + 1024]
                array[first : first + len(block)] = array[block]
        return pixels[: len(readable)], readable

    def _skip(self, name: str, error: Exception) -> None:
        from PIL import UnidentifiedImageError

        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "missing, empty or not in a known image format"
        if self.strict:
            raise DataError(
                f"{self.path}: {name} is not a readable image ({reason}). Replace or remove it, "
                "or leave out --strict to skip and count such images."
            ) from error
        self.unreadable.append((name, reason))


def is_image(name: str) -> bool:
    """Whether the file name has an image suffix and is not a hidden file of the operating system."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(IMAGE_SUFFIXES)


def is_deep(mode: str) -> bool:
    """Whether images of this mode of Pillow have whole numbers of more than 8 bits."""
    return mode == "I" or mode.startswith("I;")


def to_pixels(raw: bytes, side: int, channels: int, white: float | None = None) -> np.ndarray:
    """Decode an image file to (side, side, channels) uint8: upright, on white if transparent, resized to a square.

    white  the number that is white in images of more than 8 bits; None: 65535

    Raises what decoders raise, which is of nearly any type, and UnpackedSizeError within `unpacking_at_most`.
    """
    from PIL import Image, ImageOps

    with warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(raw), formats=IMAGE_FORMATS) as opened:
            count_pixels(opened.width * opened.height)
            mode = "L" if channels == 1 else "RGB"
            opened.draft(mode, (2 * side, 2 * side))  # JPEG: decodes at a lower resolution, which is faster
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16") or (image.mode == "I" and white is not None):
            deep = np.asarray(image)
            scaled = deep >> 8 if white is None else np.clip(deep * (255 / white), 0, 255)
            image = Image.fromarray(scaled.astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"its mode {image.mode} has no fixed range: convert it to 8 or 16 bits")
        if image.has_transparency_data:
            transparent = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent)
        image = image.convert(mode)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(side, side, channels)


def _allocate(shape: tuple[int, ...]) -> torch.Tensor:
    """An uninitialised uint8 array, in memory or, beyond `IMAGE_MEMORY_SHARE`, in an unnamed temporary file."""
    size = int(np.prod(shape, dtype=object))
    if size <= IMAGE_MEMORY_SHARE * total_memory(torch.device("cpu")):
        return torch.empty(shape, dtype=torch.uint8)
    folder = Path(tempfile.gettempdir())
    remark = f"The images need {size / 2**30:.1f} GiB there. Free space, or set TMPDIR to another folder."
    with storage_errors(folder, remark), tempfile.TemporaryFile(dir=folder) as file:
        mapped = np.memmap(file, np.uint8, "w+", shape=shape)
    return torch.from_numpy(mapped)
