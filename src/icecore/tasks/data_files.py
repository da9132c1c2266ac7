"""Finding, checking and caching data files. No network here: `icecore data get` is in download.py.

Roots are searched in this order: `--data-dir`, the environment variable ICECORE_DATA, the cache.
"""

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from icecore.core.errors import DataError
from icecore.core.storage import cache_dir


def data_roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Folders to search, most specific first."""
    named = [data_dir, os.environ.get("ICECORE_DATA")]
    return [Path(root).expanduser() for root in named if root] + [cache_dir()]


def find_first(roots: Iterable[Path], candidates: Sequence[str]) -> Path | None:
    """The first existing `root / candidate`; candidates are tried in order within each root."""
    for root in roots:
        for candidate in candidates:
            path = root / candidate
            if path.exists():
                return path
    return None


def missing_data_error(
    dataset: str, roots: Iterable[Path], would_do: Sequence[str], fetchable: bool = True
) -> DataError:
    """The error for absent data: the command that fetches it, and the files that would also do."""
    fetch = f"fetch it with `icecore data get {dataset}`, or put" if fetchable else "put"
    places = "\n".join(f"  {root}" for root in roots)
    files = "\n".join(f"  {name}" for name in would_do)
    return DataError(
        f"no data for {dataset}: {fetch} one of these\n{files}\nunder one of these folders "
        f"(or name another with --data-dir or ICECORE_DATA)\n{places}"
    )


def read_bytes(path: Path) -> bytes:
    """A file's bytes, gunzipped if it is gzip (by its magic number, whatever its name says)."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); it may be cut short: fetch or copy it again") from error
    except Exception as error:  # zlib.error has no public base class
        raise DataError(f"{path}: damaged gzip data ({error}); fetch or copy it again") from error
