"""Finding and reading data files. Nothing here uses the network; `icecore data get` is in download.py.

A folder named by `--data-dir` is the only one that is searched, since other data than those that a user asked for would
give other numbers. Without it, the folder of the environment variable ICECORE_DATA is searched, then the cache.
"""

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from icecore.core.errors import DataError, UserError
from icecore.core.limits import check_fits_memory, read_limited, unpacked_limit
from icecore.core.storage import cache_dir

#: the advice for a damaged file
FETCH_AGAIN = "Fetch or copy it again."


def data_roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The folders to search for data, most specific first. Raises DataError for a named one that does not exist."""
    for name, folder in (("--data-dir ", data_dir), ("ICECORE_DATA=", os.environ.get("ICECORE_DATA"))):
        if folder:
            root = Path(folder).expanduser()
            if not root.is_dir():
                raise DataError(f"{name}{folder}: there is no such folder.")
            return [root] if data_dir else [root, cache_dir()]
    return [cache_dir()]


def find_first(roots: Iterable[Path], candidates: Sequence[str]) -> Path | None:
    """The first `root / candidate` that exists; all candidates are tried in one root before the next root."""
    for root in roots:
        for candidate in candidates:
            path = root / candidate
            if path.exists():
                return path
    return None


def missing_data_error(dataset: str, roots: Iterable[Path], choices: Sequence[str]) -> DataError:
    """The error for missing data: it names the command that fetches them, and the files that would do as well."""
    folders = "\n".join(f"  {root}" for root in roots)
    files = "\n".join(f"  {name}" for name in choices)
    return DataError(
        f"no data for {dataset}. Fetch them with `icecore data get {dataset}`, or put one of these\n{files}\n"
        f"into one of these folders (or name another folder with --data-dir or ICECORE_DATA)\n{folders}"
    )


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, decompressed if it is gzip according to its first bytes. Raises DataError.

    Data that unpack to far more than the file are refused (`unpacked_limit`).
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if start != b"\x1f\x8b":
                check_fits_memory(path)
                return file.read()
            with gzip.GzipFile(fileobj=file) as unpacked:
                return read_limited(unpacked, path, unpacked_limit(path.stat().st_size))
    except UserError:
        raise
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}). It may be cut short. {FETCH_AGAIN}") from error
    except Exception as error:  # zlib.error has no public base class
        raise DataError(f"{path}: the gzip data are damaged ({error}). {FETCH_AGAIN}") from error


def check_texts(array: np.ndarray) -> None:
    """Raise ValueError for an array of texts with numbers that are no characters, which NumPy does not notice."""
    if array.dtype.kind == "U" and array.size:
        points = np.ascontiguousarray(array).reshape(-1).view(array.dtype.newbyteorder("=")).view(np.uint32)
        if array.dtype.byteorder not in ("=", "<"):
            points = points.byteswap()
        if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
            raise ValueError("it has texts with numbers that are no characters")
