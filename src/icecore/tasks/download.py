"""Fetching published data: what `icecore data get NAME` does. Nothing else in icecore uses the network for data.

A file gets its final name only when it is whole and its checksum holds; until then it is `NAME.part`,
which a later call continues. The standard library does all of it: a client library would save no line here.
"""

import gzip
import http.client
import json
import os
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from icecore.core.errors import DataError, unknown_name
from icecore.core.storage import cache_dir, digest, storage_errors

#: called with (bytes done, total bytes or None) of the file under way
Progress = Callable[[int, int | None], None]

CHUNK = 1 << 16
#: answers that another try may change; every other refusal sends us to the next mirror
PASSING = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RemoteFile:
    """A file, or one folder of a tar archive, and where it is published.

    urls      mirrors, in the order they are tried
    path      where it goes, relative to the data folder; a folder if `inside` is given
    checksum  "md5:<hex>" or "sha256:<hex>" of the bytes that are fetched; None where its publisher gives
              none: then the sha256 of the first download is kept in `<path>.sha256` and later ones must equal it
    size      in bytes, where known
    inside    the name of the folder to unpack, wherever it lies in the archive; None: keep the file as it is
    """

    urls: tuple[str, ...]
    path: str
    checksum: str | None = None
    size: int | None = None
    inside: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The files of one data set, and what a user should know before fetching them."""

    files: tuple[RemoteFile, ...]
    note: str


def _mnist(name: str, md5: str, size: int) -> RemoteFile:
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
    return RemoteFile(tuple(mirror + name for mirror in mirrors), f"mnist/{name}", f"md5:{md5}", size)


_TAPE = "s3.amazonaws.com/songlabdata/proteindata"

DATASETS: Mapping[str, Dataset] = {
    "mnist": Dataset(
        (
            _mnist("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
            _mnist("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
            _mnist("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
            _mnist("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
        ),
        "60,000 + 10,000 digits, 12 MB",
    ),
    "cifar10": Dataset(
        (
            RemoteFile(
                ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                "cifar10/cifar-10-python.tar.gz",
                "md5:c58f30108f718f92721af3b95e74349a",
                170_498_071,
            ),
        ),
        "50,000 + 10,000 images, 170 MB; read from the archive",
    ),
    "remote-homology": Dataset(
        (
            RemoteFile(
                (
                    f"https://{_TAPE}/data_pytorch/remote_homology.tar.gz",
                    f"http://{_TAPE}/data_pytorch/remote_homology.tar.gz",
                ),
                "remote_homology",
                # TAPE gives no checksum; this is the md5 that TorchDrug checks the same file against
                "md5:1d687bdeb9e3866f77504d6079eed00a",
                inside="remote_homology",
            ),
        ),
        "TAPE's 16,292 protein domains as LMDB; reading them needs icecore[lmdb]",
    ),
    "remote-homology-json": Dataset(
        (
            RemoteFile(
                (f"https://{_TAPE}/data_raw_pytorch/remote_homology.tar.gz",),
                "remote_homology_json",
                inside="remote_homology",
            ),
        ),
        "the same domains as JSON, which needs no extra; no checksum is published: pinned on first use",
    ),
    "listops": Dataset(
        (
            RemoteFile(
                ("https://storage.googleapis.com/long-range-arena/lra_release.gz",),
                "lra_release/listops-1000",
                inside="listops-1000",
            ),
        ),
        "Long Range Arena's own files, fetched as a 7.7 GB archive; optional, as icecore generates ListOps itself; "
        "no checksum is published: pinned on first use",
    ),
}


class _MirrorError(Exception):
    """One mirror could not deliver.

    `again`: another try at it may; `stale`: the bytes kept so far are of no use.
    """

    def __init__(self, why: object, again: bool, stale: bool = False) -> None:
        super().__init__(str(why))
        self.again = again
        self.stale = stale


def _storing(path: Path) -> AbstractContextManager[None]:
    """Refusals to write `path` become a StorageError that says where else the data may go."""
    return storage_errors(path, "Free space there, or name another folder with --dest or ICECORE_CACHE.")


def get(name: str, dest: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> list[Path]:
    """Fetch every file of a data set into `dest` (default: the cache); those already there are only checked.

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
    progress: Progress | None = None,
    *,
    tries: int = 4,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Fetch one file into `folder`, continuing an earlier attempt, and return its path.

    Each mirror is tried up to `tries` times, `timeout` seconds of silence end a try, and the pause between
    tries starts at `pause` seconds and doubles. Raises DataError naming every URL with its cause when no
    mirror delivers the right bytes, StorageError when the disk refuses them.
    """
    target = folder / file.path
    if target.exists():
        return _checked(target, file)
    with _storing(target):
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
                if not error.again:
                    break
                if attempt + 1 < tries:
                    time.sleep(pause * 2**attempt)
            else:
                return _finish(part, file, target)
    kept = f"\nWhat came is kept in {part}; the next call continues it." if part.exists() else ""
    what = f"the folder {file.inside} of that archive" if file.inside else "that file"
    raise DataError(
        f"{target}: could not be fetched\n" + "\n".join(dict.fromkeys(causes)) + kept + "\nWhere there is no network, "
        f"fetch it elsewhere and put {what} at {target}"
    )


# ------------------------------------------------------------------------------------------ transfer


class _Version(NamedTuple):
    """What tells one version of a remote file from another: its tag or date, and its whole size in bytes."""

    tag: str | None
    size: int | None


def _state_file(part: Path) -> Path:
    """Beside a `.part`: the version of the remote file that its bytes belong to."""
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    for path in (part, _state_file(part)):
        path.unlink(missing_ok=True)


def _resumable(part: Path) -> tuple[int, _Version]:
    """Bytes already there and the version they belong to; no bytes where there is nothing to continue."""
    try:
        return part.stat().st_size, _Version(*json.loads(_state_file(part).read_text()))
    except (OSError, ValueError, TypeError):
        return 0, _Version(None, None)


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "icecore", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        why = f"the server answers {error.code} {error.reason}"
        raise _MirrorError(why, error.code in PASSING, stale=error.code == 416) from error
    except urllib.error.URLError as error:
        raise _MirrorError(error.reason, again=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(repr(error), again=True) from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(f"the connection broke ({error!r})", again=True) from error


def _version(response: http.client.HTTPResponse) -> _Version:
    headers, partial = response.headers, response.status == 206
    size = headers.get("Content-Range", "").rpartition("/")[2] if partial else headers.get("Content-Length", "")
    return _Version(headers.get("ETag") or headers.get("Last-Modified"), int(size) if size.isdecimal() else None)


def _transfer(url: str, part: Path, expected: int | None, timeout: float, progress: Progress | None) -> None:
    """Bring `part` to its full length from `url`, continuing what is there. Raises _MirrorError, StorageError."""
    have, known = _resumable(part)
    if have and have == known.size:
        return
    with _open(url, have, timeout) as response:
        version = _version(response)
        size = expected if version.size is None else version.size
        if expected is not None and size != expected:
            raise _MirrorError(f"expected {expected} bytes, found {size}: not the published file", again=False)
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not (begins and version == known):
            raise _MirrorError("the remote file changed since the last attempt", again=True, stale=True)
        done = have if response.status == 206 else 0  # 200: the server ignores Range and sends all of it
        # the old bytes go before the new version is noted: an interruption in between must not mix them
        with _storing(part), part.open("ab" if done else "wb") as out:
            _state_file(part).write_text(json.dumps(version))
            for chunk in _chunks(response):
                out.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, size)
    if size is not None and done != size:
        raise _MirrorError(f"the connection was cut: expected {size} bytes, found {done}", again=True)


# ------------------------------------------------------------------------------------------ checking


def _pin(target: Path) -> Path:
    """Where the sha256 of the first download is kept when no checksum is published."""
    return target.with_name(f"{target.name}.sha256")


def _expected(file: RemoteFile, target: Path) -> tuple[str, str | None]:
    """(algorithm, expected digest or None where nothing is published and nothing pinned)."""
    if file.checksum:
        algorithm, _, value = file.checksum.partition(":")
        return algorithm, value
    pinned = _pin(target).read_text().split() if _pin(target).exists() else []
    return "sha256", pinned[0] if pinned else None


def _checked(target: Path, file: RemoteFile) -> Path:
    """A target that is there already: a plain file must have the right digest. Raises DataError."""
    algorithm, expected = _expected(file, target)
    if target.is_file() and expected and (found := digest(target, algorithm)) != expected:
        raise DataError(f"{target}: expected {algorithm} {expected}, found {found}; remove it and fetch it again")
    return target


def _verify(part: Path, file: RemoteFile, target: Path) -> None:
    """Refuse a whole download that has the wrong digest. Raises _MirrorError."""
    algorithm, expected = _expected(file, target)
    if expected and (found := digest(part, algorithm)) != expected:
        pinned = "" if file.checksum else f" as at the first download (remove {_pin(target)} to accept the new file)"
        raise _MirrorError(f"expected {algorithm} {expected}{pinned}, found {found}: removed", again=False, stale=True)


def _finish(part: Path, file: RemoteFile, target: Path) -> Path:
    """Give a verified download its final name, unpacked if it is an archive, and pin what was not published."""
    pin = None if all(_expected(file, target)) else digest(part)
    if file.inside is None:
        with _storing(target):
            part.replace(target)
    else:
        try:
            unpack(part, file.inside, target)
        except DataError:
            _discard(part)
            raise
    if pin:
        with _storing(target):
            _pin(target).write_text(f"{pin}  {PurePosixPath(file.urls[0]).name}\n")
    _discard(part)
    return target


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Unpack the regular files below the folder `inside` of a tar archive as the folder `target`.

    They go to a temporary folder that is renamed when complete. Every member on the way is checked: a path
    or link that leads outside, or a device, refuses the whole archive. Raises DataError and StorageError.
    """
    with _storing(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as temporary:
        new = Path(temporary) / target.name
        new.mkdir()
        try:
            with tarfile.open(archive) as members:
                for member in members:
                    tarfile.data_filter(member, os.fspath(new))
                    parts = PurePosixPath(member.name).parts
                    if member.isfile() and inside in parts[:-1]:
                        name = "/".join(parts[parts.index(inside) + 1 :])
                        members.extract(member.replace(name=name, deep=False), new, filter="data")
        except tarfile.FilterError as error:
            raise DataError(f"{archive}: unsafe archive refused ({error})") from error
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{archive}: expected a tar archive, found damaged data ({error}); fetch it again"
            ) from error
        if not any(new.iterdir()):
            raise DataError(f"{archive}: expected files in a folder {inside}, found none; fetch it again")
        new.replace(target)
