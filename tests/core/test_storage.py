"""The cache folder, checksums, atomic writes, and locks between processes."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icecore.core.errors import StorageError
from icecore.core.storage import cache_dir, digest, file_lock, write_atomic

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
HOLD_LOCK = """
import sys, time
from pathlib import Path
from icecore.core.storage import file_lock
with file_lock(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process_holds(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock on `path` until it is killed."""
    command = [sys.executable, "-c", HOLD_LOCK, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"True\n"
            yield holder
        finally:
            holder.kill()


# ------------------------------------------------------------------------------------------ cache and checksums


def test_the_cache_is_in_the_home_folder_unless_a_variable_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICECORE_CACHE", "/some/folder")
    assert cache_dir() == Path("/some/folder")
    for unset in (lambda: monkeypatch.setenv("ICECORE_CACHE", ""), lambda: monkeypatch.delenv("ICECORE_CACHE")):
        unset()
        assert cache_dir() == Path.home() / ".cache" / "icecore"


def test_a_digest_is_that_of_the_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "file", "md5") == hashlib.md5(b"abc").hexdigest()


# ------------------------------------------------------------------------------------------ atomic writes


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, lambda temporary: temporary.write_text("old"))

    def interrupted(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, interrupted)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_an_error_of_the_disk_names_the_file_the_cause_and_the_remedy(tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    message = r"file\.txt: cannot be written \(No space left on device\)\. Choose another disk\.$"
    with pytest.raises(StorageError, match=message):
        write_atomic(tmp_path / "file.txt", full, "Choose another disk.")


# ------------------------------------------------------------------------------------------ locks


def test_a_second_lock_is_refused_until_the_first_is_free(tmp_path: Path) -> None:
    with file_lock(tmp_path / "new" / ".lock") as first:
        assert first
        with file_lock(tmp_path / "new" / ".lock", wait=False) as second:
            assert not second
    with file_lock(tmp_path / "new" / ".lock", wait=False) as third:
        assert third


def test_a_lock_is_free_after_an_error_in_its_block(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the block"), file_lock(tmp_path / ".lock"):
        raise RuntimeError("in the block")
    with file_lock(tmp_path / ".lock", wait=False) as held:
        assert held


def test_waiting_ends_when_the_lock_is_free(tmp_path: Path) -> None:
    events: list[str] = []

    def wait() -> None:
        with file_lock(tmp_path / ".lock") as held:
            events.append(f"waiter holds it: {held}")

    with file_lock(tmp_path / ".lock"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        waiter.join(0.2)
        assert waiter.is_alive()
        events.append("released")
    waiter.join(10)
    assert events == ["released", "waiter holds it: True"]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with another_process_holds(path) as holder:
        with file_lock(path, wait=False) as held:
            assert not held
        holder.kill()
        holder.wait()
        with file_lock(path, wait=False) as held:
            assert held
    assert path.exists()  # an unlocked file may remain: only the lock on it counts


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(number, "No locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    locks = [file_lock(tmp_path / name / ".lock", wait=False) for name in "ab"]
    with pytest.warns(UserWarning, match=r"no file locks \(No locks here\), .* Use one process at a time") as shown:
        assert [lock.__enter__() for lock in locks] == [True, True]
    # Python shows equal warnings once.
    assert len({str(warning.message) for warning in shown}) == 1


def test_another_error_of_a_lock_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StorageError, match=r"\.lock: .*\(Input/output error\)"), file_lock(tmp_path / ".lock"):
        pass


def test_a_lock_in_no_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"\.lock: cannot be written"), file_lock(tmp_path / "file" / ".lock"):
        pass


def test_the_module_needs_no_unix(tmp_path: Path) -> None:
    script = "import sys; sys.modules['fcntl'] = None; import icecore.core.storage"
    subprocess.run([sys.executable, "-c", script], check=True, env=ENVIRONMENT)


def test_a_lock_whose_file_is_removed_still_excludes(tmp_path: Path) -> None:
    """A thread that has the file open when it is removed must not hold the lock beside one that made a new file."""
    path, holders, most = tmp_path / ".lock", 0, 0

    def work() -> None:
        nonlocal holders, most
        for _ in range(20):
            with file_lock(path, remove=True):
                holders += 1
                most = max(most, holders)
                time.sleep(0.001)
                holders -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not path.exists()
