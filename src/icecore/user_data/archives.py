"""Reads the files in a folder, zip archive or tar archive one at a time, without unpacking it."""

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from icecore.core.errors import DataError
from icecore.core.limits import SizeCounter

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
Member = TypeVar("Member", tarfile.TarInfo, zipfile.ZipInfo)
_READ_ERRORS = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, RuntimeError)


def file_names(path: Path) -> list[str]:
    """Relative names of the files in a folder or archive. Raises DataError if it cannot be read."""
    try:
        if path.is_dir():
            return [file.relative_to(path).as_posix() for file in iterate_files(path)]
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                return [item.filename for item in _counted(path, archive.infolist()) if not item.is_dir()]
        with tarfile.open(path) as archive:
            return [member.name.removeprefix("./") for member in _counted(path, archive) if member.isfile()]
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def iterate_files(folder: Path, levels: int = 1000) -> Iterator[Path]:
    """The files in a folder and the folders in it; links are followed, also to elsewhere, but never in a circle.

    levels  how far down
    """
    yield from _iterate_files(folder, frozenset(), levels)


def _iterate_files(folder: Path, parents: frozenset[Path], levels: int) -> Iterator[Path]:
    real = folder.resolve()
    if real in parents:
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if levels > 0 and os.access(entry, os.R_OK | os.X_OK):
                yield from _iterate_files(entry, parents | {real}, levels - 1)
        elif entry.is_file():
            yield entry


def read_files(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of these files of a folder or archive, in the archive's order. Raises DataError.

    A single file that cannot be read is empty, so that the caller can skip it: there may be thousands.
    """
    try:
        if path.is_dir():
            for name in sorted(names):
                yield name, _read_file(path / name)
        elif path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for item in _counted(path, archive.infolist()):
                    if item.filename in names:
                        yield item.filename, _read_zip_member(archive, item)
        else:
            with tarfile.open(path) as archive:
                for member in _counted(path, archive):
                    name = member.name.removeprefix("./")
                    if name in names and (file := archive.extractfile(member)) is not None:
                        yield name, file.read()
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def _counted(path: Path, members: Iterable[Member]) -> Iterator[Member]:
    """The members of an archive. Raises DataError, before it is read, at the one with which they become too large."""
    counter = SizeCounter(path)
    for member in members:
        counter.add(member.size if isinstance(member, tarfile.TarInfo) else member.file_size)
        yield member


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} cannot be read ({error}). It may be damaged or incomplete: download or copy it again.")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read_zip_member(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(item)
    except (zipfile.BadZipFile, zlib.error):
        return b""
