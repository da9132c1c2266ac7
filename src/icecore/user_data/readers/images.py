"""Images of any size, mode and number, from a folder or archive with one folder a class.

Names are listed first, so that rows can be split and ordered before a pixel is decoded; then every image
goes straight to its place in one array, in memory or, where that is too small, in a file that is mapped.
"""

import io
import lzma
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icecore.core.device import total_memory
from icecore.core.errors import DataError
from icecore.core.storage import storage_errors
from icecore.user_data.records import SPLIT_NAMES, listed

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
#: sides offered; the smallest that is not below the images' own is taken
SIDES = (8, 16, 32, 64)
#: images looked at to decide side and colour
SAMPLE = 64
#: share of memory that decoded images may take before they go to a file
IMAGE_MEMORY_SHARE = 0.4
_DAMAGE = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, RuntimeError)


@dataclass(frozen=True)
class Listing:
    """The images of a container: relative names in order, class and split of each ("" for none)."""

    path: Path
    names: Sequence[str]
    classes: Sequence[str]
    splits: Sequence[str]


@dataclass
class ImageFiles:
    """Images that are decoded when asked for. `bad` fills with (name, reason) of those that cannot be."""

    path: Path
    names: Sequence[str]
    strict: bool = False
    bad: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def sample(self) -> tuple[int, bool, str]:
        """Median shorter side in pixels, whether any has colour, and sizes and modes in words, from a few images."""
        from PIL import Image

        places = np.unique(np.linspace(0, len(self) - 1, min(SAMPLE, len(self))).astype(int))
        wanted = {self.names[place] for place in places}
        sizes: list[tuple[int, int]] = []
        modes: list[str] = []
        for name, raw in contents(self.path, wanted):
            try:
                with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(raw)) as image:
                    sizes.append(image.size)
                    modes.append(image.mode)
            except Exception as error:  # decoders raise nearly anything
                self._refuse(name, error)
        self.bad.clear()  # they are met again when all are decoded
        if not sizes:
            raise DataError(f"{self.path}: none of {len(wanted)} images tried can be read; are they images?")
        short = int(np.median([min(size) for size in sizes]))
        shown = [f"{w} x {h}" for w, h in sorted(set(sizes), key=sizes.count, reverse=True)]
        colour = any(mode not in ("1", "L", "LA", "I", "F") and not mode.startswith("I;") for mode in modes)
        return short, colour, f"{listed(shown, 2)} pixels, {listed(sorted(set(modes)))}"

    def decode(self, order: np.ndarray, side: int, channels: int) -> tuple[torch.Tensor, np.ndarray]:
        """The images `order` (N,) as (n, S, S, C) uint8, and the places (n,) of those that could be read.

        Raises DataError for one that cannot where strict, and where none can.
        """
        places_of: dict[str, list[int]] = {}  # a table may name an image twice
        for place, row in enumerate(map(int, order)):
            places_of.setdefault(self.names[row], []).append(place)
        pixels = _allocate((len(order), side, side, channels))
        places = pixels.numpy()
        good = np.zeros(len(order), bool)
        for name, raw in contents(self.path, places_of.keys()):
            try:
                places[places_of[name]] = to_pixels(raw, side, channels)
                good[places_of[name]] = True
            except Exception as error:  # decoders raise nearly anything
                self._refuse(name, error)
        kept = np.flatnonzero(good)
        if not len(kept):
            raise DataError(f"{self.path}: none of {len(order):,} images can be read, say {self.bad[0][0]}")
        if len(kept) < len(order):
            # downwards in place, block by block: the array may be larger than memory
            for first in range(0, len(kept), 1024):
                block = kept[first : first + 1024]
                places[first : first + len(block)] = places[block]
        return pixels[: len(kept)], kept

    def _refuse(self, name: str, error: Exception) -> None:
        from PIL import UnidentifiedImageError

        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "absent, empty or of no known format"
        if self.strict:
            raise DataError(
                f"{self.path}: {name} is not a readable image ({reason}); mend or remove it, "
                "or leave --strict out to skip and count such images"
            ) from error
        self.bad.append((name, reason))


def to_pixels(raw: bytes, side: int, channels: int) -> np.ndarray:
    """An image's bytes as (side, side, channels) uint8: upright, on white where transparent, squeezed to a square."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(raw)) as opened:
            mode = "L" if channels == 1 else "RGB"
            opened.draft(mode, (2 * side, 2 * side))  # JPEG: decode no more than is needed
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"mode {image.mode} has no fixed range; convert it to 8 or 16 bits")
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        image = image.convert(mode)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(side, side, channels)


def list_images(path: Path) -> Listing:
    """Find `[split/]class/.../image` in a folder or archive. Raises DataError where there is no image."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise DataError(f"{path}: reading images needs Pillow: pip install icecore[images]") from error
    # sorted: archives of the same images give the same rows, however they were packed
    names = sorted(name for name in file_names(path) if is_image(name))
    if not names:
        raise DataError(f"{path}: found no images ({', '.join(SUFFIXES)}); expected one folder of images a class")
    folders = [name.split("/")[:-1] for name in names]
    # an archive may wrap everything in a folder or two of its own
    while all(len(folder) > 1 for folder in folders) and len({folder[0] for folder in folders}) == 1:
        if folders[0][0].lower() in SPLIT_NAMES:
            break
        folders = [folder[1:] for folder in folders]
    splits = [""] * len(names)
    if all(folder and folder[0].lower() in SPLIT_NAMES for folder in folders):
        splits = [SPLIT_NAMES[folder[0].lower()] for folder in folders]
        folders = [folder[1:] for folder in folders]
    return Listing(path, names, [folder[0] if folder else "" for folder in folders], splits)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image, and not one of the system's hidden ones."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(SUFFIXES)


def file_names(path: Path) -> list[str]:
    """Relative names of the files in a folder or archive. Raises DataError."""
    try:
        if path.is_dir():
            return [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                return [item.filename for item in archive.infolist() if not item.is_dir()]
        with tarfile.open(path) as archive:
            return [member.name.removeprefix("./") for member in archive if member.isfile()]
    except _DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch or copy it again") from error


def contents(path: Path, wanted: Any) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files in `wanted`, in the container's order, one at a time. Raises DataError."""
    try:
        if path.is_dir():
            for name in sorted(wanted):
                yield name, _read(path / name)
        elif path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for item in archive.infolist():
                    if item.filename in wanted:
                        yield item.filename, _member(archive, item)
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if name in wanted and (file := archive.extractfile(member)) is not None:
                        yield name, file.read()
    except _DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch or copy it again") from error


def _read(path: Path) -> bytes:
    """A file's bytes; none where it cannot be read: one bad file among thousands is the decoder's to refuse."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _member(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(item)
    except (zipfile.BadZipFile, zlib.error):
        return b""


def _allocate(shape: tuple[int, ...]) -> torch.Tensor:
    """An uninitialised uint8 array; beyond a share of memory in a nameless file that goes with the tensor."""
    size = int(np.prod(shape, dtype=object))
    if size <= IMAGE_MEMORY_SHARE * total_memory(torch.device("cpu")):
        return torch.empty(shape, dtype=torch.uint8)
    folder = Path(tempfile.gettempdir())
    remark = f"The images need {size / 2**30:.1f} GiB there. Free the space, or set TMPDIR to another folder."
    with storage_errors(folder, remark), tempfile.TemporaryFile(dir=folder) as file:
        mapped = np.memmap(file, np.uint8, "w+", shape=shape)
    return torch.from_numpy(mapped)


CHANNELS: Mapping[bool, int] = {False: 1, True: 3}
