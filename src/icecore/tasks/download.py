"""Downloads of public data: what `icecore data get NAME` does. Nothing else in icecore uses the network for data.

A file gets its final name when it is complete and its checksum is right. Until then it is `NAME.part`, which a later
call resumes. Neither pooch nor huggingface_hub can resume a file of any server in a later call.
"""

import contextlib
import http.client
import json
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from icecore.core.errors import DataError, unknown_name
from icecore.core.limits import read_small
from icecore.core.storage import cache_dir, digest, storage_errors
from icecore.tasks.archive_unpacking import CHOOSE_FOLDER, unpack
from icecore.tasks.datasets import DATASETS, RemoteFile

#: called with (bytes received, total bytes or None) of the current file
DownloadProgress = Callable[[int, int | None], None]

#: bytes that are read at a time
CHUNK_BYTES = 1 << 16
#: seconds over which the speed of a transfer is measured; slower ones are broken off
MIN_BYTES_PER_SECOND, SPEED_SECONDS = 1024, 60.0
#: longest time until a server has sent its headers
ANSWER_SECONDS = 90.0
#: the largest file whose size neither icecore nor the server knows; the largest data set has 8 GB
MAX_UNKNOWN_BYTES = 20 * 2**30
#: HTTP status codes after which another attempt may succeed; after any other error, the next mirror is tried
TEMPORARY_STATUS = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


class _MirrorError(Exception):
    """One mirror could not deliver the file.

    retry  another attempt at the same mirror may succeed
    stale  the bytes that have been received are of no use
    """

    def __init__(self, cause: object, retry: bool, stale: bool = False) -> None:
        super().__init__(str(cause))
        self.retry = retry
        self.stale = stale


def _disk_errors(path: Path) -> AbstractContextManager[None]:
    """Raise an error of writing `path` as a StorageError that says how to choose another folder."""
    return storage_errors(path, CHOOSE_FOLDER)


def get(name: str, dest: str | os.PathLike[str] | None = None, progress: DownloadProgress | None = None) -> list[Path]:
    """Download every file of a data set into `dest` (default: the cache). Files that exist are only checked.

    Returns the paths of the files or unpacked folders. Raises ConfigError for an unknown name, DataError and
    StorageError as `fetch` does.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    folder = cache_dir() if dest is None else Path(dest).expanduser()
    return [fetch(file, folder, progress) for file in DATASETS[name].files]


def fetch(
    file: RemoteFile,
    folder: Path,
    progress: DownloadProgress | None = None,
    *,
    tries: int = 4,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Download one file into `folder`, resuming an earlier attempt, and return its path.

    Each mirror is tried up to `tries` times. An attempt ends after `timeout` seconds without data, and the pause
    between attempts starts at `pause` seconds and doubles each time. Raises DataError naming every URL with its error
    if no mirror delivers the right bytes, and StorageError if they cannot be written.
    """
    target = folder / file.path
    if target.exists():
        return _checked(target, file)
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    causes = []
    for url in file.urls:
        for attempt in range(tries):
            try:
                _transfer(url, part, file.size, timeout, progress)
                _verify(part, file, target)
            except _MirrorError as error:
                causes.append(f"  {url}: {error}")
                if error.stale:
                    _discard(part)
                if not error.retry:
                    break
                if attempt + 1 < tries:
                    time.sleep(pause * 2**attempt)
            else:
                return _finish(part, file, target)
    resume = f"\nThe received bytes are in {part}, and the next call resumes there." if part.exists() else ""
    content = f"the folder {file.inside} of that archive" if file.inside else "that file"
    raise DataError(
        f"{target}: could not be downloaded\n" + "\n".join(dict.fromkeys(causes)) + resume + "\nWithout a network, "
        f"download it on another machine and put {content} at {target}."
    )


# ------------------------------------------------------------------------------------------ transfer


class _Version(NamedTuple):
    """What identifies a version of a remote file: its ETag or date, and its total size in bytes."""

    tag: str | None
    size: int | None


def _state_file(part: Path) -> Path:
    """The file beside a `.part` file that stores the version of the remote file that its bytes belong to."""
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    for path in (part, _state_file(part)):
        path.unlink(missing_ok=True)


def _resumable(part: Path) -> tuple[int, _Version]:
    """The number of bytes received and their version; 0 bytes if there is nothing to resume."""
    try:
        return part.stat().st_size, _Version(*json.loads(read_small(_state_file(part))))
    except (OSError, ValueError, TypeError, RecursionError):
        return 0, _Version(None, None)


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    """The answer of a server. Raises _MirrorError, also for one that sends its headers byte by byte for ever."""
    answers: list[http.client.HTTPResponse | BaseException] = []
    is_left = threading.Event()

    def ask() -> None:
        try:
            response = _ask(url, start, timeout)
        except BaseException as error:
            answers.append(error)
            return
        answers.append(response)
        if is_left.is_set():
            response.close()

    # a thread, because a time limit of a connection begins again with each byte
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not answers:
        is_left.set()
        raise _MirrorError(f"it did not answer within {ANSWER_SECONDS:.0f} seconds", retry=True)
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def _ask(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "icecore", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        cause = f"the server answers {error.code} {error.reason}"
        raise _MirrorError(cause, error.code in TEMPORARY_STATUS, stale=error.code == 416) from error
    except urllib.error.URLError as error:
        raise _MirrorError(error.reason, retry=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(repr(error), retry=True) from error
    except ValueError as error:  # a redirect to something that is no address
        raise _MirrorError(f"the server names a broken address ({error})", retry=False) from error
    if not isinstance(response, http.client.HTTPResponse):
        response.close()
        raise _MirrorError("the server names an address of another kind than http", retry=False)
    return response


@contextlib.contextmanager
def _reading(response: http.client.HTTPResponse) -> Iterator[Iterator[bytes]]:
    """What a server sends, piece by piece, read and in the end closed by a thread.

    A thread, because the lines between pieces have no time limit: a server could send them byte by byte for ever.
    """
    pieces: queue.Queue[bytes | BaseException] = queue.Queue(maxsize=4)
    is_left = threading.Event()

    def read() -> None:
        piece: bytes | BaseException = b"more"
        while piece and not isinstance(piece, BaseException) and not is_left.is_set():
            try:
                # read1 returns what has arrived, so that a server that sends a byte now and then is noticed
                piece = response.read1(CHUNK_BYTES)
            except BaseException as error:
                piece = error
            pieces.put(piece)
        response.close()

    threading.Thread(target=read, daemon=True).start()
    try:
        yield _timed(pieces)
    finally:
        is_left.set()
        while not pieces.empty():  # so that the thread, which may be waiting for room, ends
            pieces.get_nowait()


def _timed(pieces: "queue.Queue[bytes | BaseException]") -> Iterator[bytes]:
    """The pieces until an empty one. Raises _MirrorError if the connection breaks or is too slow."""
    begun, received = time.monotonic(), 0
    while True:
        try:
            piece = pieces.get(timeout=SPEED_SECONDS)
        except queue.Empty:
            raise _MirrorError(f"it sent nothing for {SPEED_SECONDS:.0f} seconds", retry=True) from None
        if isinstance(piece, OSError | http.client.HTTPException):
            raise _MirrorError(f"the connection broke ({piece!r})", retry=True) from piece
        if isinstance(piece, BaseException):
            raise piece
        if not piece:
            return
        yield piece
        received += len(piece)
        if (seconds := time.monotonic() - begun) > SPEED_SECONDS:
            if received < MIN_BYTES_PER_SECOND * seconds:
                raise _MirrorError(f"it sends only {received / seconds:.0f} bytes per second", retry=True)
            begun, received = time.monotonic(), 0


def _version(response: http.client.HTTPResponse) -> _Version:
    headers, partial = response.headers, response.status == 206
    size = headers.get("Content-Range", "").rpartition("/")[2] if partial else headers.get("Content-Length", "")
    known = re.fullmatch(r"[0-9]{1,15}", size)
    return _Version(headers.get("ETag") or headers.get("Last-Modified"), int(size) if known else None)


def _transfer(url: str, part: Path, expected: int | None, timeout: float, progress: DownloadProgress | None) -> None:
    """Download the missing bytes of `part` from `url`. Raises _MirrorError and StorageError."""
    received, stored = _resumable(part)
    if received and received == stored.size:
        return
    response = _open(url, received, timeout)
    with _reading(response) as chunks:
        version = _version(response)
        size = expected if version.size is None else version.size
        most = MAX_UNKNOWN_BYTES if expected is None else expected
        if size is not None and size > most and expected is None:
            raise _MirrorError(f"it offers {size:,} bytes, but at most {most:,} are fetched", retry=False)
        if expected is not None and size != expected:
            raise _MirrorError(f"expected {expected} bytes, found {size}: not the published file", retry=False)
        continues = response.headers.get("Content-Range", "").startswith(f"bytes {received}-")
        if response.status == 206 and not (continues and version == stored):
            raise _MirrorError("the remote file changed since the last attempt", retry=True, stale=True)
        done = received if response.status == 206 else 0  # 200: the server ignores Range and sends the whole file
        # The old bytes are removed before the new version is stored, so that an interruption cannot mix them.
        with _disk_errors(part), part.open("ab" if done else "wb") as out:
            _state_file(part).write_text(json.dumps(version), encoding="utf-8")
            for chunk in chunks:
                out.write(chunk)
                done += len(chunk)
                if done > (most if size is None else size):
                    raise _MirrorError(f"it sends more than {done - 1:,} bytes", retry=False, stale=True)
                if progress:
                    progress(done, size)
    if size is not None and done != size:
        raise _MirrorError(f"the connection was cut: expected {size} bytes, found {done}", retry=True)


# ------------------------------------------------------------------------------------------ checking


def _pin(target: Path) -> Path:
    """The file that stores the sha256 of the first download if no checksum is published."""
    return target.with_name(f"{target.name}.sha256")


def _expected(file: RemoteFile, target: Path) -> tuple[str, str | None]:
    """(algorithm, expected checksum); the checksum is None if none is published and this is the first download."""
    if file.checksum:
        algorithm, _, value = file.checksum.partition(":")
        return algorithm, value
    try:
        pinned = read_small(_pin(target)).split() if _pin(target).exists() else []
    except (OSError, ValueError) as error:
        raise DataError(f"{_pin(target)} cannot be read ({error}). Remove it to pin the file again.") from error
    return "sha256", pinned[0] if pinned else None


def _checked(target: Path, file: RemoteFile) -> Path:
    """A target that exists already. Raises DataError if it is a file with a wrong checksum."""
    algorithm, expected = _expected(file, target)
    if target.is_file() and expected and (actual := digest(target, algorithm)) != expected:
        raise DataError(f"{target}: expected {algorithm} {expected}, found {actual}. Remove it and download it again.")
    return target


def _verify(part: Path, file: RemoteFile, target: Path) -> None:
    """Raise _MirrorError if a complete download has a wrong checksum."""
    algorithm, expected = _expected(file, target)
    if expected and (actual := digest(part, algorithm)) != expected:
        pinned = "" if file.checksum else f" as at the first download (remove {_pin(target)} to accept the new file)"
        raise _MirrorError(
            f"expected {algorithm} {expected}{pinned}, found {actual}, so it was removed", retry=False, stale=True
        )


def _finish(part: Path, file: RemoteFile, target: Path) -> Path:
    """Give a verified download its final name, unpacked if it is an archive, and pin its checksum."""
    pin = None if all(_expected(file, target)) else digest(part)
    if file.inside is None:
        with _disk_errors(target):
            part.replace(target)
    else:
        try:
            unpack(part, file.inside, target)
        except DataError:
            _discard(part)
            raise
    if pin:
        with _disk_errors(target):
            _pin(target).write_text(f"{pin}  {PurePosixPath(file.urls[0]).name}\n", encoding="utf-8")
    _discard(part)
    return target
