"""Finding and reading data files. Nothing here uses the network; `icecore data get` is in download.py.

Folders are searched in this order: `--data-dir`, the environment variable ICECORE_DATA, the cache.
"""

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from icecore.core.errors import DataError, UserError
from icecore.core.limits import read_limited, unpacked_limit
from icecore.core.storage import cache_dir

#: the advice for a damaged file
FETCH_AGAIN = "Fetch or copy it again."


def data_roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The folders to search for data, most specific first. Raises DataError if `data_dir` is not a folder."""
    roots = [Path(folder).expanduser() for folder in (data_dir, os.environ.get("ICECORE_DATA")) if folder]
    if data_dir and not roots[0].is_dir():
        raise DataError(f"--data-dir {data_dir}: there is no such folder.")
    return [*roots, cache_dir()]


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
                return file.read()
            with gzip.GzipFile(fileobj=file) as unpacked:
                return read_limited(unpacked, path, unpacked_limit(path.stat().st_size))
    except UserError:
        raise
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}). It may be cut short. {FETCH_AGAIN}") from error
    except Exception as error:  # zlib.error has no public base class
        raise DataError(f"{path}: the gzip data are damaged ({error}). {FETCH_AGAIN}") from error
