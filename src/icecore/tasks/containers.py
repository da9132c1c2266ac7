"""Files inside a folder, a tar archive or a zip archive, read in memory: archives are never unpacked."""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from icecore.core.errors import DataError
from icecore.core.limits import SizeCounter, read_limited, unpacked_limit
from icecore.tasks.data_files import FETCH_AGAIN, read_bytes

#: what the readers of archives and of .npz files raise for damaged files
DAMAGE_ERRORS = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, RuntimeError)


def matching_files(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """(match, bytes) of each file in a folder, tar (also .gz, .xz) or zip whose whole name matches `pattern`.

    Names are relative, with forward slashes. Raises DataError if the archive is damaged.
    """
    try:
        for name, read in _contents(path):
            if match := pattern.fullmatch(name):
                yield match, read()
    except DAMAGE_ERRORS as error:
        raise DataError(f"{path}: cannot be read ({error}). {FETCH_AGAIN}") from error


def folder_files(folder: Path) -> list[tuple[str, Path]]:
    """(relative name, path) of every file below a folder, sorted by name."""
    return sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())


def _contents(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name of each file in a container, and a function that reads it."""
    if path.is_dir():
        yield from ((name, file.read_bytes) for name, file in folder_files(path))
        return
    raw = read_bytes(path)
    if raw.startswith(b"\xfd7zXZ"):
        with lzma.LZMAFile(BytesIO(raw)) as unpacked:
            raw = read_limited(unpacked, path, unpacked_limit(len(raw)))
    counter = SizeCounter(path)
    if raw.startswith(b"PK"):
        with zipfile.ZipFile(BytesIO(raw)) as archive:
            for item in archive.infolist():
                counter.add(item.file_size)
                yield item.filename, lambda item=item: archive.read(item)
        return
    with tarfile.open(fileobj=BytesIO(raw), mode="r:") as archive:
        for member in archive:
            counter.add(member.size)  # that of a sparse member has nothing to do with the archive's
            if (file := archive.extractfile(member) if member.isfile() else None) is not None:
                yield member.name, file.read
