"""Files written whole or not at all, and a disk that refuses as one clear message."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from icecore.errors import StorageError

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path, remark):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
