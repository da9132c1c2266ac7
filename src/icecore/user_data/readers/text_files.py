"""Opens text files whose encoding is unknown."""

import gzip
import io
from pathlib import Path
from typing import IO

from icecore.core.archives import archive_errors
from icecore.core.errors import DataError
from icecore.core.limits import READ_BYTES, LimitedFile, check_line, unpacked_limit

COMPRESSED_SUFFIX = ".gz"


def open_text(path: Path) -> tuple[IO[str], str]:
    """Open a text file, gzipped or not, and name its encoding: UTF-8, UTF-16 if it starts with its mark, or Latin-1.

    Raises DataError if the file cannot be read or is UTF-16 without a mark.
    """
    with archive_errors(path):
        with _open_bytes(path) as file:
            start = file.read(1024)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            return _open_with(path, "utf-16"), "UTF-16"
        if 0 in start:
            guess = "UTF-16BE" if start[::2].count(0) > start[1::2].count(0) else "UTF-16LE"
            raise DataError(
                f"{path} has zero bytes, so it is not UTF-8. It may be UTF-16 without a byte-order mark. "
                f"Convert it to UTF-8: iconv -f {guess} -t UTF-8"
            )
        try:
            _read_through(path, "utf-8-sig")
        except UnicodeDecodeError:
            return _open_with(path, "latin-1"), "Latin-1"
        return _open_with(path, "utf-8-sig"), "UTF-8"


def _open_bytes(path: Path) -> io.BufferedReader:
    if path.suffix.lower() != COMPRESSED_SUFFIX:
        return path.open("rb")
    return io.BufferedReader(LimitedFile(gzip.GzipFile(path), path, unpacked_limit(path.stat().st_size)))


def _open_with(path: Path, encoding: str) -> IO[str]:
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding, newline="")


def _read_through(path: Path, encoding: str) -> None:
    """Raise UnicodeDecodeError for a file of another encoding, and DataError for one with an endless line."""
    with _open_with(path, encoding) as file:
        length = 0
        while part := file.read(READ_BYTES):
            _, line_break, rest = part.rpartition("\n")
            length = len(rest) if line_break else length + len(rest)
            check_line(length, path)
