"""Limits on how much memory and disk a file may claim: unpacked size, pixels, line length, JSON size.

The limit of compressed files grows with the file: honest data rarely shrink a hundredfold, and small files may do so
up to one GiB.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from icecore.core.errors import ConfigError, DataError

#: environment variable that sets the limit, in GiB
LIMIT_VARIABLE = "ICECORE_MAX_UNPACKED_GIB"
MIN_LIMIT_BYTES = 2**30
MAX_RATIO = 100
#: characters of the longest line of a text file; the longest human chromosome has 249 million
MAX_LINE = 2**28
READ_BYTES = 2**20
#: the most that is read of a stream at once: more is asked for only by a header of an archive that lies about its size
MAX_READ_BYTES = 2**24
#: the largest file of JSON that is read whole: a configuration, a summary, or one line of results
MAX_JSON_BYTES = 2**26
#: what a cell of a table or an array takes at least once it is read
BYTES_PER_CELL = 8


class UnpackedSizeError(DataError):
    """Data that unpack to more than they may."""


@dataclass
class _Budget:
    """Bytes that each file may unpack to, and pixels that may be decoded, at first and now."""

    limit: int
    max_pixels: int
    pixels: int


_BUDGET: ContextVar[_Budget | None] = ContextVar("_BUDGET", default=None)


@contextmanager
def unpacking_at_most(limit: int, pixels: int) -> Iterator[None]:
    """Within the block, a file unpacks to at most `limit` bytes, and all images together have at most `pixels` pixels.

    For files of people who are not trusted with the memory and the time of this machine.
    """
    token = _BUDGET.set(_Budget(limit, pixels, pixels))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def check_cells(path: Path, cells: int) -> None:
    """Raise UnpackedSizeError within `unpacking_at_most` for an array that becomes too large as numbers of 8 bytes."""
    budget = _BUDGET.get()
    if budget is not None and cells * BYTES_PER_CELL > budget.limit:
        raise too_large(path, budget.limit)


def count_pixels(pixels: int) -> None:
    """Count an image that is about to be decoded. Raises UnpackedSizeError if all of the block are too many."""
    budget = _BUDGET.get()
    if budget is None:
        return
    budget.pixels -= pixels
    if budget.pixels < 0:
        raise UnpackedSizeError(
            f"The images have more than {budget.max_pixels / 1e6:,.3g} million pixels in all. Divide them into several "
            "requests, or make them smaller."
        )


def unpacked_limit(compressed: int) -> int:
    """Bytes that a file of `compressed` bytes may unpack to. Raises ConfigError for a wrong variable."""
    budget = _BUDGET.get()
    return _usual_limit(compressed) if budget is None else min(budget.limit, _usual_limit(compressed))


def _usual_limit(compressed: int) -> int:
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


def too_large(path: Path, limit: int) -> UnpackedSizeError:
    """The error for a file that unpacks to more than its limit."""
    if _BUDGET.get() is not None:
        return UnpackedSizeError(f"{path} unpacks to more than {limit / 2**20:,.3g} MiB. Divide it into several.")
    return UnpackedSizeError(
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


def check_fits_memory(path: Path) -> None:
    """Raise DataError for a file that is larger than the memory of this machine, before it is read whole."""
    import torch

    from icecore.core.device import total_memory

    size, memory = path.stat().st_size, total_memory(torch.device("cpu"))
    if size > memory:
        raise DataError(
            f"{path} has {size / 2**30:,.1f} GiB, more than the {memory / 2**30:,.1f} GiB of memory of this machine. "
            "Use a smaller file or a larger machine."
        )


def read_small(path: Path) -> str:
    """The UTF-8 text of a file of JSON. Raises OSError and ValueError, the latter also for one of over 64 MiB."""
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES:,} bytes")
    return data.decode("utf-8")


def small_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file of JSON lines; None for one of over 64 MiB, which is passed over, as is all after a GiB."""
    while line := file.readline(MAX_JSON_BYTES + 1):
        if len(line) <= MAX_JSON_BYTES:
            yield line
            continue
        passed = 0
        while line and not line.endswith(b"\n") and passed < MIN_LIMIT_BYTES:
            line = file.readline(MAX_JSON_BYTES)
            passed += len(line)
        yield None
        if passed >= MIN_LIMIT_BYTES:
            return


class LimitedFile(io.RawIOBase):
    """A stream as it is unpacked, which raises DataError as soon as it has given more than its limit."""

    def __init__(self, file: Any, path: Path, limit: int) -> None:
        self.file, self.path, self.limit = file, path, limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes. Raises DataError for the size of a lying header, before anything is read."""
        if not 0 <= size <= MAX_READ_BYTES:
            raise DataError(
                f"{self.path}: a part that names or describes a file has {size:,} bytes, so the archive is damaged."
            )
        data = self.file.read(size)
        self._check(self.file.tell())
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(min(len(buffer), READ_BYTES))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0:
            self._check(offset)  # before it is unpacked up to there
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
        super().close()

    def _check(self, position: int) -> None:
        if position > self.limit:
            raise too_large(self.path, self.limit)


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
        check_line(len(line), path)
        yield line


def check_line(length: int, path: Path) -> None:
    """Raise DataError for a line of more than `MAX_LINE` characters."""
    if length > MAX_LINE:
        raise DataError(f"{path} has a line of more than {MAX_LINE:,} characters. Divide it into lines.")
