"""Readers of stored images: MNIST's idx files, CIFAR-10 as published, and images in one folder per class.

Archives are read in memory and never unpacked. Pickles are opened by an unpickler that can build numpy
arrays and nothing else. Decoded JPEG and PNG images are cached, because decoding takes half a minute.
"""

import hashlib
import lzma
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icecore.core.errors import DataError, StorageError
from icecore.core.storage import cache_dir, digest, write_atomic
from icecore.tasks.data_files import find_first, missing_data_error, read_bytes
from icecore.tasks.pickles import unpickle

MNIST_FOLDERS = ("mnist", "MNIST/raw", ".")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SHAPE = (3, 32, 32)  # as published: colour planes, rows, columns

AGAIN = "fetch or copy it again"


class Split(NamedTuple):
    """Images (N, H, W, C) uint8, C colour channels, and their labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def checked(cls, images: np.ndarray, labels: Any, place: str) -> "Split":
        """The split, if there is one label from 0 to 9 for each image. Raises DataError naming `place`."""
        values = np.asarray(labels)
        if values.shape != (len(images),) or not np.issubdtype(values.dtype, np.integer):
            raise DataError(
                f"{place}: expected {len(images)} integer labels, found {values.dtype} {values.shape}; {AGAIN}"
            )
        wrong = values[(values < 0) | (values > 9)]
        if wrong.size:
            raise DataError(f"{place}: expected labels 0 to 9, found {wrong[0]}; {AGAIN}")
        return cls(images, values.astype(np.int64))


@dataclass(frozen=True)
class ImageSet:
    """A data set as it was stored; `source` says what was read: format, files and perhaps a remark."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    source: Mapping[str, Any]

    def sha256(self) -> str:
        """Digest of the decoded images and labels: one value whatever archive or format they came in."""
        state = hashlib.sha256()
        for array in (*self.train, *self.test):
            state.update(f"{array.dtype} {array.shape}\n".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()


def _mnist_names(part: str, kind: str, dims: int) -> list[str]:
    return [f"{part}-{kind}{joint}idx{dims}-ubyte{gz}" for joint in "-." for gz in ("", ".gz")]


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of an idx file with `dims` axes, gzipped or not (LeCun's format). Raises DataError."""
    raw = read_bytes(path)
    magic, header = bytes([0, 0, 8, dims]), 4 + 4 * dims
    if raw[:4] != magic or len(raw) < header:
        raise DataError(
            f"{path}: expected an idx file of bytes with {dims} axes (magic {magic.hex()}), "
            f"found {len(raw)} bytes starting {raw[:4].hex() or 'nowhere'}; {AGAIN}"
        )
    shape = tuple(np.frombuffer(raw, ">u4", dims, 4).tolist())
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise DataError(f"{path}: expected {expected} bytes for shape {shape}, found {len(raw)}; {AGAIN}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def read_mnist(roots: Sequence[Path]) -> ImageSet:
    """MNIST from its four idx files, in the first folder that has the training images. Raises DataError."""
    folders = [root / sub for root in roots for sub in MNIST_FOLDERS]
    first = find_first(folders, _mnist_names("train", "images", 3))
    if first is None:
        would_do = [f"mnist/{name}" for name in _mnist_names("train", "images", 3)]
        raise missing_data_error("mnist", roots, [f"{name} (and the other three)" for name in would_do])
    splits: list[Split] = []
    files: list[str] = []
    for part in ("train", "t10k"):
        arrays: list[np.ndarray] = []
        for kind, dims in (("images", 3), ("labels", 1)):
            names = _mnist_names(part, kind, dims)
            path = find_first([first.parent], names)
            if path is None:
                raise DataError(f"{first.parent}: found {first.name}, but not {' or '.join(names)}; put it beside it")
            arrays.append(read_idx(path, dims))
            files.append(path.name)
        images, labels = arrays
        if images.shape[1:] != (28, 28):
            raise DataError(f"{first.parent / files[-2]}: expected images of (28, 28), found {images.shape[1:]}")
        splits.append(Split.checked(images[..., None], labels, f"{first.parent / files[-1]}"))
    return ImageSet(splits[0], splits[1], tuple("0123456789"), {"format": "idx", "files": files})


_DAMAGE = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, RuntimeError)


def members(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """(match, bytes) of each file of a folder, tar (also .gz, .xz) or zip whose whole name matches `pattern`.

    Names are relative, with forward slashes. Raises DataError if the container is damaged.
    """
    try:
        for name, read in _contents(path):
            if match := pattern.fullmatch(name):
                yield match, read()
    except _DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({error}); {AGAIN}") from error


def _files(folder: Path) -> list[tuple[str, Path]]:
    """(relative name, path) of every file under a folder, by name."""
    return sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())


def _contents(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name of each file in a container, and a function that reads it."""
    if path.is_dir():
        yield from ((name, file.read_bytes) for name, file in _files(path))
        return
    raw = read_bytes(path)
    if raw.startswith(b"\xfd7zXZ"):
        raw = lzma.decompress(raw)
    if raw.startswith(b"PK"):
        with zipfile.ZipFile(BytesIO(raw)) as archive:
            for name in archive.namelist():
                yield name, lambda name=name: archive.read(name)
        return
    with tarfile.open(fileobj=BytesIO(raw), mode="r:") as archive:
        for member in archive:
            if (file := archive.extractfile(member) if member.isfile() else None) is not None:
                yield member.name, file.read


def _pixels(planes: np.ndarray) -> np.ndarray:
    """Rows of 3072 bytes, plane by plane (N, 3072), to images (N, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, *CIFAR10_SHAPE).transpose(0, 2, 3, 1))


def _binary_batch(raw: bytes, place: str) -> Split:
    """A batch of the binary version: records of one label byte and 3072 pixel bytes."""
    record = 1 + int(np.prod(CIFAR10_SHAPE))
    if not raw or len(raw) % record:
        raise DataError(f"{place}: expected records of {record} bytes, found {len(raw)} bytes; {AGAIN}")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, record)
    return Split.checked(_pixels(rows[:, 1:]), rows[:, 0], place)


def _python_batch(raw: bytes, place: str) -> Split:
    """A batch of the Python version: a pickled dict with data (N, 3072) uint8 and a list of labels."""
    item = unpickle(raw, place, encoding="bytes")
    if not isinstance(item, dict):
        raise DataError(f"{place}: expected a pickled dict, found {type(item).__name__}; {AGAIN}")
    fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in item.items()}
    rows, wanted = np.asarray(fields.get("data")), int(np.prod(CIFAR10_SHAPE))
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != wanted:
        raise DataError(f"{place}: expected data of uint8 (N, {wanted}), found {rows.dtype} {rows.shape}; {AGAIN}")
    return Split.checked(_pixels(rows), fields.get("labels"), place)


def _read_batches(path: Path, form: str, suffix: str, decode: Callable[[bytes, str], Split]) -> ImageSet:
    """CIFAR-10 from its five training batches and its test batch, in a folder or archive."""
    wanted = [f"{name}{suffix}" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
    pattern = re.compile(rf"(?:.*/)?({'|'.join(map(re.escape, wanted))})")
    found = {match[1]: decode(raw, f"{path}: {match[0]}") for match, raw in members(path, pattern)}
    if absent := [name for name in wanted if name not in found]:
        raise DataError(f"{path}: expected {', '.join(wanted)}, found no {', '.join(absent)}; {AGAIN}")
    *train, test = (found[name] for name in wanted)
    joined = Split(*(np.concatenate(arrays) for arrays in zip(*train, strict=True)))
    return ImageSet(joined, test, CIFAR10_CLASSES, {"format": form, "files": [path.name]})


def read_binary(path: Path) -> ImageSet:
    """CIFAR-10's binary version: `data_batch_1.bin` ... in a folder or archive. Raises DataError."""
    return _read_batches(path, "binary", ".bin", _binary_batch)


def read_python(path: Path) -> ImageSet:
    """CIFAR-10's Python version: pickled `data_batch_1` ... in a folder or archive. Raises DataError."""
    return _read_batches(path, "python", "", _python_batch)


_CLASS_MEMBER = re.compile(r"(?:.*/)?(train|test)/([^/]+)/[^/.][^/]*\.(jpe?g|png)", re.IGNORECASE)


def read_class_folders(path: Path) -> ImageSet:
    """CIFAR-10 from `train/<class>/*.jpg`, `test/<class>/*.jpg` (or .png) in a folder, tar or zip.

    Classes are numbered by name, as the published ones are. Decoded arrays are kept in the cache under a
    digest of the archive, or of a folder's names, sizes and times. Raises DataError.
    """
    cache = cache_dir() / "cifar10" / f"{_source_digest(path)}.npz"
    arrays = _load(cache)
    if arrays is None:
        arrays = _decode_all(path)
        _store(cache, arrays)
    train, test = (Split(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in ("train", "test"))
    source = {"format": "images", "files": [path.name]}
    if arrays["jpeg"]:
        source["remark"] = "JPEG-recompressed"
    return ImageSet(train, test, tuple(arrays["classes"].tolist()), source)


def _decode_all(path: Path) -> dict[str, Any]:
    """Every image of a folder or archive, as the arrays that the cache holds."""
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    names: dict[str, list[str]] = {"train": [], "test": []}
    jpeg = False
    for match, raw in members(path, _CLASS_MEMBER):
        split = match[1].lower()
        images[split].append(_decode(raw, f"{path}: {match[0]}"))
        names[split].append(match[2])
        jpeg |= match[3].lower() != "png"
    expected = f"10 classes of images train/<class>/*.jpg (or .png) and the same 10 in test/; {AGAIN}"
    classes = sorted(set(names["train"]))
    for split, found in names.items():
        if len(classes) != 10 or sorted(set(found)) != classes:
            listed = ", ".join(sorted(set(found))[:12]) or "none"
            raise DataError(f"{path}: in {split}/ found {len(set(found))} classes ({listed}), expected {expected}")
    arrays = {"classes": np.array(classes), "jpeg": np.array(jpeg)}
    for split in images:
        # archives lie sorted by class; shuffled, the first k examples are a fair sample
        order = np.random.default_rng(0).permutation(len(names[split]))
        arrays[f"{split}_images"] = np.stack(images[split])[order]
        arrays[f"{split}_labels"] = np.searchsorted(classes, names[split])[order].astype(np.int64)
    return arrays


def _decode(raw: bytes, place: str) -> np.ndarray:
    """One JPEG or PNG image as (32, 32, 3) uint8."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{place}: reading images needs Pillow: pip install icecore[images]") from error
    try:
        with Image.open(BytesIO(raw), formats=("JPEG", "PNG")) as image:
            mode, (width, height) = image.mode, image.size
            pixels = np.asarray(image) if (mode, width, height) == ("RGB", 32, 32) else None
    except Exception as error:  # decoders raise nearly anything
        raise DataError(f"{place}: not a readable JPEG or PNG image ({error}); {AGAIN}") from error
    if pixels is None:
        raise DataError(
            f"{place}: expected 32x32 pixels of mode RGB, found {width}x{height} of mode {mode}; convert it"
        )
    return pixels


def _source_digest(path: Path) -> str:
    """sha256 of an archive, or of the names, sizes and times of a folder's files."""
    if path.is_file():
        return digest(path)
    status = {name: file.stat() for name, file in _files(path)}
    listing = "".join(f"{name}\0{s.st_size}\0{s.st_mtime_ns}\n" for name, s in status.items())
    return hashlib.sha256(listing.encode()).hexdigest()


_CACHED = ("train_images", "train_labels", "test_images", "test_labels", "classes", "jpeg")


def _load(cache: Path) -> dict[str, Any] | None:
    """The cached arrays, or None where they are absent or damaged (a CRC guards each)."""
    try:
        with cache.open("rb") as file, np.load(file) as stored:
            return {name: stored[name] for name in _CACHED}
    except (*_DAMAGE, KeyError, ValueError):
        return None


def _store(cache: Path, arrays: Mapping[str, Any]) -> None:
    """Write the cache atomically. One that cannot be written costs time, not the run: it is a warning."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)

    try:
        write_atomic(cache, write)
    except StorageError as error:
        warnings.warn(
            f"{cache}: decoded images not cached ({error.__cause__}); they are decoded again next time", stacklevel=3
        )


#: what may lie in a data root, or in its folder cifar10/, best first: the published pixels, then JPEG
_ARCHIVES: Mapping[str, Callable[[Path], ImageSet]] = {
    "cifar-10-batches-bin": read_binary,
    "cifar-10-batches-py": read_python,
    "cifar-10-binary.tar.gz": read_binary,
    "cifar-10-python.tar.gz": read_python,
    **{f"cifar10{ending}": read_class_folders for ending in ("-jpeg.tar.xz", ".tar.xz", ".tar.gz", ".tar", ".zip")},
}


def read_cifar10(roots: Sequence[Path]) -> ImageSet:
    """CIFAR-10 in whichever form is found first. Raises DataError."""
    # cifar10/ alone proves nothing: the cache keeps decoded images in a folder of that name
    candidates = [*_ARCHIVES, *(f"cifar10/{name}" for name in _ARCHIVES), "cifar10/train"]
    path = find_first(roots, candidates)
    if path is None:
        raise missing_data_error(
            "cifar10", roots, [*_ARCHIVES, "cifar10/train/<class>/*.jpg, cifar10/test/<class>/*.jpg"]
        )
    return read_class_folders(path.parent) if path.name == "train" else _ARCHIVES[path.name](path)
