"""Files on disk: the cache folder, checksums, atomic writes, and locks between processes.

An error of the disk becomes one clear message, a StorageError.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from icecore.core.errors import StorageError

INTACT = "The file that was there before is unchanged."

#: age in seconds after which a temporary file counts as abandoned
STALE_SECONDS = 3600.0
#: error numbers of a file system that has no locks, such as some network file systems
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


def cache_dir() -> Path:
    """The folder for downloaded and generated data: ICECORE_CACHE, or ~/.cache/icecore."""
    return Path(os.environ.get("ICECORE_CACHE") or "~/.cache/icecore").expanduser()


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder. Raises OSError for a folder in it that cannot be read, instead of leaving it out."""

    def fail(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=fail):
        yield from (path for name in names if (path := Path(place, name)).is_file())


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file's bytes on disk, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextlib.contextmanager
def storage_errors(path: Path, remark: str = INTACT) -> Iterator[None]:
    """Raise an error of writing `path` as a StorageError that ends with the sentence `remark`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: cannot be written ({cause}). {remark}") from error


def create_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Create a folder completely or not at all. If another process has created it meanwhile, that one stays.

    `fill` writes into a temporary folder beside it. Raises StorageError, and what else `fill` raises.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        with storage_errors(folder):
            temporary.mkdir(parents=True)
            fill(temporary)
            if not folder.is_dir():
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomic(path: Path, write: Callable[[Path], object], remark: str = INTACT) -> None:
    """Write a file completely or not at all.

    `write` fills a temporary file in the same folder, which then replaces `path` in one step. Raises StorageError.
    """
    # The name is random, because processes on several machines may write to one shared folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors(path, remark):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep_temporaries(path, STALE_SECONDS)
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # some writers (safetensors) deny other users access to their files
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def sweep_temporaries(path: Path, age: float = 0.0) -> None:
    """Remove what killed processes left while they wrote `path`: temporary files not changed for `age` seconds.

    age  0 only for the holder of a lock, since other processes may be writing
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # another process was quicker
            if re.fullmatch(r"[0-9a-f]{8}", leftover.name.split(".")[-2]) and (
                time.time() - leftover.stat().st_mtime >= age
            ):
                leftover.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, lambda temporary: save_file(plain, temporary, dict(header)))


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = True, remove: bool = False) -> Iterator[bool]:
    """Lock the file `path` against other processes and threads. Yields whether this call holds the lock.

    path    a file that serves only as a lock, never one with data; it is created if it does not exist
    wait    wait until the lock is free; otherwise return at once
    remove  remove the file at the end; a process that has it open by then notices, and makes a new one

    The operating system frees the lock when its holder dies, so a lock is never stale. If the file system has no
    locks, the lock counts as held after a warning: refusing would make icecore unusable there for a single process,
    for which no lock is needed. Raises StorageError if the file cannot be created.
    """
    # A soft lock, the fallback that the library offers, would outlive a killed holder.
    lock = FileLock(path, fallback_to_soft=False)
    with storage_errors(path, "It is needed as a lock. Choose a folder that can be written."):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=wait)
            acquired = True
        except Timeout:
            acquired = False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _warn_without_locks(path, error)
            acquired = True
    try:
        yield acquired
    finally:
        if remove and acquired:
            with contextlib.suppress(OSError):  # the lock works as well with a file that stays
                path.unlink()
        lock.release()


def _warn_without_locks(path: Path, error: OSError) -> None:
    # The mount point is the same for all locks of a file system, so that Python shows the warning once.
    mount = next((folder for folder in path.resolve().parents if os.path.ismount(folder)), path.parent)
    warnings.warn(
        f"The file system at {mount} has no file locks ({error.strerror}), so icecore cannot stop two processes from "
        "training the same run or from writing to the same results file there. Use one process at a time.",
        stacklevel=2,
    )
