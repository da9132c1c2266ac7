"""Reader of CIFAR-10 as JPEG or PNG images in one folder for each class, also inside an archive.

Decoding takes half a minute, so the decoded images are kept in the cache.
"""

import hashlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import DataError, StorageError
from icecore.core.storage import cache_dir, digest, write_atomic
from icecore.tasks.containers import folder_files, matching_files
from icecore.tasks.data_files import FETCH_AGAIN
from icecore.tasks.image_set import ImageSet, ImageSplit

_CLASS_IMAGE = re.compile(r"(?:.*/)?(train|test)/([^/]+)/[^/.][^/]*\.(jpe?g|png)", re.IGNORECASE)
_CACHED_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "classes", "jpeg")


def read_class_folders(path: Path) -> ImageSet:
    """CIFAR-10 from `train/<class>/*.jpg`, `test/<class>/*.jpg` (or .png) in a folder, tar or zip.

    Classes are numbered by name, as the published ones are. The cache file is named by a checksum of the archive, or of
    the names, sizes and times of a folder's files. Raises DataError.
    """
    cache = cache_dir() / "cifar10" / f"{_source_digest(path)}.npz"
    arrays = _load_cache(cache)
    if arrays is None:
        arrays = _decode_all(path)
        _store_cache(cache, arrays)
    train, test = (ImageSplit(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in ("train", "test"))
    origin = {"format": "images", "files": [path.name]}
    if arrays["jpeg"]:
        origin["remark"] = "JPEG-recompressed"
    return ImageSet(train, test, tuple(arrays["classes"].tolist()), origin)


def _decode_all(path: Path) -> dict[str, Any]:
    """Every image of a folder or archive, as the arrays that the cache holds."""
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    names: dict[str, list[str]] = {"train": [], "test": []}
    jpeg = False
    for match, raw in matching_files(path, _CLASS_IMAGE):
        split = match[1].lower()
        images[split].append(_decode(raw, f"{path}: {match[0]}"))
        names[split].append(match[2])
        jpeg |= match[3].lower() != "png"
    classes = sorted(set(names["train"]))
    for split in names:
        split_classes = sorted(set(names[split]))
        if len(classes) != 10 or split_classes != classes:
            listed = ", ".join(split_classes[:12]) or "none"
            raise DataError(
                f"{path}: in {split}/ found {len(split_classes)} classes ({listed}), expected 10 classes of images "
                f"train/<class>/*.jpg (or .png) and the same 10 classes in test/. {FETCH_AGAIN}"
            )
    arrays = {"classes": np.array(classes), "jpeg": np.array(jpeg)}
    for split in images:
        # Archives are sorted by class. After shuffling, the first k examples are a fair sample.
        order = np.random.default_rng(0).permutation(len(names[split]))
        arrays[f"{split}_images"] = np.stack(images[split])[order]
        arrays[f"{split}_labels"] = np.searchsorted(classes, names[split])[order].astype(np.int64)
    return arrays


def _decode(raw: bytes, location: str) -> np.ndarray:
    """One JPEG or PNG image as (32, 32, 3) uint8."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{location}: reading images needs Pillow: pip install icecore[images]") from error
    try:
        with Image.open(BytesIO(raw), formats=("JPEG", "PNG")) as image:
            mode, (width, height) = image.mode, image.size
            pixels = np.asarray(image) if (mode, width, height) == ("RGB", 32, 32) else None
    except Exception as error:  # decoders raise nearly anything
        raise DataError(f"{location}: not a readable JPEG or PNG image ({error}). {FETCH_AGAIN}") from error
    if pixels is None:
        raise DataError(
            f"{location}: expected 32x32 pixels of mode RGB, found {width}x{height} of mode {mode}. Convert the image."
        )
    return pixels


def _source_digest(path: Path) -> str:
    """sha256 of an archive, or of the names, sizes and times of a folder's files."""
    if path.is_file():
        return digest(path)
    status = {name: file.stat() for name, file in folder_files(path)}
    listing = "".join(f"{name}\0{s.st_size}\0{s.st_mtime_ns}\n" for name, s in status.items())
    return hashlib.sha256(listing.encode()).hexdigest()


def _load_cache(cache: Path) -> dict[str, Any] | None:
    """The cached arrays; None if they are missing or damaged (each is guarded by a CRC)."""
    try:
        with cache.open("rb") as file, np.load(file) as stored:
            return {name: stored[name] for name in _CACHED_ARRAYS}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


def _store_cache(cache: Path, arrays: Mapping[str, Any]) -> None:
    """Write the cache. A cache that cannot be written costs time only, so it is a warning and not an error."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)

    try:
        write_atomic(cache, write)
    except StorageError as error:
        warnings.warn(
            f"{cache}: the decoded images cannot be cached ({error.__cause__}), so they will be decoded again next "
            "time. Name another folder with ICECORE_CACHE.",
            stacklevel=3,
        )
