"""Opens text files whose encoding is unknown."""

import gzip
from pathlib import Path
from typing import IO

from icecore.core.errors import DataError
from icecore.core.limits import too_large, unpacked_limit

COMPRESSED_SUFFIX = ".gz"


def open_text(path: Path) -> tuple[IO[str], str]:
    """Open a text file, gzipped or not, and name its encoding: UTF-8, UTF-16 if it starts with its mark, or Latin-1.

    Raises DataError if the file cannot be read or is UTF-16 without a mark.
    """
    opener = gzip.open if path.suffix.lower() == COMPRESSED_SUFFIX else open

    def open_with(encoding: str) -> IO[str]:
        return opener(path, "rt", encoding=encoding, newline="")

    try:
        with opener(path, "rb") as file:
            start = file.read(1024)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            return open_with("utf-16"), "UTF-16"
        if 0 in start:
            guess = "UTF-16BE" if start[::2].count(0) > start[1::2].count(0) else "UTF-16LE"
            raise DataError(
                f"{path} has zero bytes, so it is not UTF-8. It may be UTF-16 without a byte-order mark. "
                f"Convert it to UTF-8: iconv -f {guess} -t UTF-8"
            )
        try:
            with open_with("utf-8-sig") as file:
                limit, length = unpacked_limit(path.stat().st_size), 0
                while part := file.read(1 << 20):
                    length += len(part)
                    if length > limit:
                        raise too_large(path, limit)
        except UnicodeDecodeError:
            return open_with("latin-1"), "Latin-1"
        return open_with("utf-8-sig"), "UTF-8"
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). It may be damaged or incomplete: download or copy it again."
        ) from error
