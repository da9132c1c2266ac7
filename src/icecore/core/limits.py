"""How much a compressed file may unpack to, so that a small file cannot fill the memory or the disk.

The limit grows with the file: honest data rarely shrink a hundredfold, and small files may do so up to one GiB.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from icecore.core.errors import ConfigError, DataError

#: environment variable that sets the limit, in GiB
LIMIT_VARIABLE = "ICECORE_MAX_UNPACKED_GIB"
MIN_LIMIT_BYTES = 2**30
MAX_RATIO = 100
#: characters of the longest line of a text file; the longest human chromosome has 249 million
MAX_LINE = 2**28
READ_BYTES = 2**20


def unpacked_limit(compressed: int) -> int:
    """Bytes that a file of so many `compressed` bytes may unpack to. Raises ConfigError for a wrong variable."""
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        return max(MIN_LIMIT_BYTES, MAX_RATIO * compressed)
    try:
        gib = float(text)
    except ValueError:
        gib = 0.0
    if not 0 < gib < 2**30:
        raise ConfigError(f"{LIMIT_VARIABLE}={text}: expected a number of GiB above 0")
    return int(gib * 2**30)


def too_large(path: Path, limit: int) -> DataError:
    """The error for a file that unpacks to more than its limit."""
    return DataError(
        f"{path} unpacks to more than {limit / 2**30:,.1f} GiB, far more than its size suggests. If you trust it, set "
        f"the environment variable {LIMIT_VARIABLE} to the GiB that it may take."
    )


class Readable(Protocol):
    """An open binary file of any kind."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        ...


def read_limited(file: Readable, path: Path, limit: int) -> bytes:
    """All bytes of an open file. Raises DataError naming `path` if there are more than `limit`."""
    parts: list[bytes] = []
    left = limit
    while part := file.read(min(READ_BYTES, left + 1)):
        left -= len(part)
        if left < 0:
            raise too_large(path, limit)
        parts.append(part)
    return b"".join(parts)


class SizeCounter:
    """Adds up the sizes of the members of an archive. Raises DataError when they pass the limit of the archive."""

    def __init__(self, path: Path) -> None:
        self.path, self.limit = path, unpacked_limit(path.stat().st_size)
        self.total = 0

    def add(self, size: int) -> None:
        self.total += size
        if self.total > self.limit:
            raise too_large(self.path, self.limit)


def limited_lines(readline: Callable[[int], str], path: Path) -> Iterator[str]:
    """The lines of an open text file, with their ends. Raises DataError for a line of more than `MAX_LINE`."""
    while line := readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise DataError(f"{path} has a line of more than {MAX_LINE:,} characters. Divide it into lines.")
        yield line
