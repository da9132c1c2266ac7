"""Files inside a folder, a tar archive or a zip archive, read in memory: archives are never unpacked."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from icecore.core.archives import archive_errors, archive_files
from icecore.core.storage import files_below


def matching_files(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """(match, bytes) of each file in a folder, tar (also .gz, .xz, .bz2) or zip whose whole name matches `pattern`.

    Names are relative, with forward slashes. Raises DataError if the archive is damaged.
    """
    for name, read in _contents(path):
        if match := pattern.fullmatch(name):
            with archive_errors(path):
                data = read()
            yield match, data


def folder_files(folder: Path) -> list[tuple[str, Path]]:
    """(relative name, path) of every file below a folder, sorted by name."""
    return sorted((file.relative_to(folder).as_posix(), file) for file in files_below(folder))


def _contents(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name of each file in a container, and a function that reads it."""
    if path.is_dir():
        return ((name, file.read_bytes) for name, file in folder_files(path))
    return iter(archive_files(path))
