"""The files in tar and zip archives, one after another, without unpacking the archive or believing its headers.

Python's readers believe much: a header may claim gigabytes for a name, a member may be larger than it says, and a
broken one may raise nearly any exception. Here each archive has a limit in bytes and in files, and ends in DataError.
"""

import bz2
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from icecore.core.errors import DataError, UserError
from icecore.core.limits import LimitedFile, SizeCounter, read_limited, unpacked_limit
from icecore.core.text import reason

#: the most files of an archive, or the bytes of the archive that allow one file each, whichever allows more
MIN_FILE_LIMIT, BYTES_PER_FILE = 100_000, 32
#: compression methods of zip members whose reader can be stopped: the others unpack a whole block at once
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: how files begin that are compressed as a whole, and what opens them
_OPENERS: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"BZh", bz2.BZ2File),
)


class ArchiveFile(NamedTuple):
    """A regular file in an archive: its name, and a function that reads it, to be called before the next file."""

    name: str
    read: Callable[[], bytes]


@contextmanager
def archive_errors(path: Path) -> Iterator[None]:
    """Raise whatever the readers of archives raise as a DataError that names `path`."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise DataError(
            f"{path} cannot be read ({reason(error)}). It may be damaged or incomplete: download or copy it again."
        ) from error


def archive_files(path: Path) -> Iterator[ArchiveFile]:
    """The regular files of a tar archive (also .gz, .xz, .bz2) or zip archive, in its order. Raises DataError."""
    with archive_errors(path):
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                yield from _zip_files(archive, path)
        else:
            with open_tar(path) as archive:
                for member in tar_members(archive, path):
                    if member.isfile():
                        yield ArchiveFile(member.name, lambda member=member: _read_member(archive, member, path))


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """An open tar archive, compressed or not, that gives at most what `unpacked_limit` allows."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _OPENERS if start.startswith(magic)), lambda path: path.open("rb"))
    limit = unpacked_limit(path.stat().st_size)
    with LimitedFile(opener(path), path, limit) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield archive


def tar_members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an open archive. Raises DataError at the one with which they become too many or too large."""
    opened: Any = archive  # typeshed has no `members`
    counter, most = SizeCounter(path), max(MIN_FILE_LIMIT, path.stat().st_size // BYTES_PER_FILE)
    count = 0
    while (member := archive.next()) is not None:
        opened.members.clear()  # it would remember each of them
        count += 1
        counter.add(member.size)  # that of a sparse member has nothing to do with the archive's
        if count > most:
            raise DataError(f"{path} has more than {most:,} files, far more than its size suggests. Divide it.")
        yield member


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else read_limited(file, path, member.size)


def _zip_files(archive: zipfile.ZipFile, path: Path) -> Iterator[ArchiveFile]:
    counter = SizeCounter(path)
    for item in archive.infolist():
        counter.add(item.file_size)
        if not item.is_dir():
            yield ArchiveFile(item.filename, lambda item=item: read_zip_member(archive, item, path))


def read_zip_member(archive: zipfile.ZipFile, item: zipfile.ZipInfo, path: Path) -> bytes:
    """The bytes of a zip member, as many as it claims. Raises BadZipFile if there are others or fewer, DataError."""
    check_zip_method(item, path)
    with archive.open(item) as file:
        return read_limited(file, path, item.file_size)


def check_zip_method(item: zipfile.ZipInfo, path: Path) -> None:
    """Raise DataError for a member that cannot be unpacked piece by piece."""
    if item.compress_type not in ZIP_METHODS:
        raise DataError(f"{path}: {item.filename} is compressed in a way that icecore does not read. Use plain zip.")
