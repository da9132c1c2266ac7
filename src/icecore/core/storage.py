"""Files written whole or not at all, locks that die with their holder, and a disk that refuses as one clear message."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from icecore.core.errors import StorageError

INTACT = "what was there is intact"


@contextlib.contextmanager
def storage_errors(path: Path, remark: str = INTACT) -> Iterator[None]:
    """Turn refusals to write `path` into a StorageError that ends with `remark`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: cannot be written ({why}); {remark}") from error


def write_atomic(path: Path, write: Callable[[Path], object], remark: str = INTACT) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place at once. Raises StorageError."""
    # processes of several machines may share the folder, and have the same number
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors(path, remark):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # some writers (safetensors) keep their files from everybody else
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock on the file `path`, made where there is none; yields whether it is held.

    wait  until whoever holds it lets go

    The system frees the lock when its holder dies, of whatever cause, so none is ever stale. On a file
    system that has no locks it counts as held.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except OSError:  # a network's file system without locks
            pass
        yield held
