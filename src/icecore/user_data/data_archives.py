"""Reads the files in a folder, zip archive or tar archive one at a time, without unpacking it."""

import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from icecore.core.archives import archive_errors, archive_files
from icecore.core.errors import DataError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")


def file_names(path: Path) -> list[str]:
    """Relative names of the files in a folder or archive. Raises DataError if it cannot be read."""
    with archive_errors(path):
        if path.is_dir():
            return [file.relative_to(path).as_posix() for file in iterate_files(path)]
        return [file.name.removeprefix("./") for file in archive_files(path)]


def iterate_files(folder: Path, levels: int = 1000, skip_unreadable: bool = False) -> Iterator[Path]:
    """The files in a folder and the folders in it; links are followed, also to elsewhere, but never in a circle.

    levels           how far down
    skip_unreadable  leave out folders that may not be read, and links to nothing

    Raises OSError for such folders, DataError for such links.
    """
    yield from _iterate_files(folder, frozenset(), levels, skip_unreadable)


def _iterate_files(folder: Path, parents: frozenset[Path], levels: int, skip_unreadable: bool) -> Iterator[Path]:
    real = folder.resolve()
    if real in parents:
        return
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for entry in (folder / name for name in names):
        if entry.is_dir():
            if levels > 0 and not (skip_unreadable and not os.access(entry, os.R_OK | os.X_OK)):
                yield from _iterate_files(entry, parents | {real}, levels - 1, skip_unreadable)
        elif entry.is_file():
            yield entry
        elif entry.is_symlink() and not skip_unreadable and not entry.name.startswith("."):
            raise DataError(f"{entry} is a link to something that is not there. Restore that, or remove the link.")


def read_files(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of these files of a folder or archive, in the archive's order. Raises DataError.

    A single file that cannot be read is empty, so that the caller can skip it: there may be thousands.
    """
    if path.is_dir():
        for name in sorted(names):
            yield name, _read_or_nothing((path / name).read_bytes)
        return
    for file in archive_files(path):
        name = file.name.removeprefix("./")
        if name in names:
            with archive_errors(path):
                data = _read_or_nothing(file.read)
            yield name, data


def _read_or_nothing(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (OSError, zipfile.BadZipFile, zlib.error):
        return b""
