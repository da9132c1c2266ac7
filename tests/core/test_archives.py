"""Archives whose headers lie: nothing is believed, and everything ends in a message."""

import bz2
import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from icecore.core import archives
from icecore.core.archives import archive_files
from icecore.core.errors import DataError
from icecore.user_data.data_archives import file_names

MEBIBYTE = 2**20


def read(path: Path) -> dict[str, bytes]:
    return {file.name: file.read() for file in archive_files(path)}


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member_of(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_regular_files_are_read_whatever_the_compression(tmp_path: Path, mode: str) -> None:
    link = member_of("a/link", type=tarfile.SYMTYPE, linkname="x.png")
    path = tar_of(tmp_path / "a.tar", (member_of("a/x.png"), b"abc"), (link, b""), (member_of("b"), b""), mode=mode)
    assert read(path) == {"a/x.png": b"abc", "b": b""}


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_name_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path, kind: bytes) -> None:
    header = member_of("x", size=2**31, type=kind).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header + bytes(20 * MEBIBYTE)))
    with pytest.raises(DataError, match=r"a\.tar\.gz: a part that names or describes a file has 2,147,483,648 bytes"):
        read(tmp_path / "a.tar.gz")


def test_a_link_with_the_name_of_a_file_is_no_file(tmp_path: Path) -> None:
    link = member_of("x", type=tarfile.SYMTYPE, linkname="nowhere")
    assert read(tar_of(tmp_path / "a.tar", (member_of("x"), b"abc"), (link, b""))) == {"x": b"abc"}


@pytest.mark.parametrize("sparse_map", [b"9\n1\n2\n", b"99999999999\n1\n2\n", b"x\n", b""])
def test_a_broken_sparse_map_is_a_message(tmp_path: Path, sparse_map: bytes) -> None:
    member = member_of("x")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "100"}
    with pytest.raises(DataError, match=r"a\.tar cannot be read"):
        read(tar_of(tmp_path / "a.tar", (member, sparse_map.ljust(512, b"x"))))


def test_more_files_than_an_archive_of_its_size_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MIN_FILE_LIMIT", 10)
    header = member_of("x").tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header * 1000))
    with pytest.raises(DataError, match=r"more than \d+ files, far more than its size suggests"):
        read(tmp_path / "a.tar.gz")


def lying_zip(path: Path, method: int, packed: bytes, claim: int) -> Path:
    """A zip archive of one file, of which both headers say that it has `claim` bytes."""
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, method, 0, 0, 0, len(packed), claim, 1, 0) + b"x"
    fields = (b"PK\1\2", 20, 20, 0, method, 0, 0, 0, len(packed), claim, 1, 0, 0, 0, 0, 0, 0)
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", *fields) + b"x"
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    path.write_bytes(local + packed + entry + end)
    return path


def test_a_zip_member_that_is_larger_than_it_says_costs_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packer, given = zlib.compressobj(9, zlib.DEFLATED, -15), list[int]()
    packed = packer.compress(bytes(50 * MEBIBYTE)) + packer.flush()
    original = zipfile.ZipExtFile._read1  # type: ignore[attr-defined]
    monkeypatch.setattr(zipfile.ZipExtFile, "_read1", lambda self, n: (given.append(n), original(self, n))[1])
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC"):
        read(lying_zip(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, packed, 100))
    assert max(given) <= 101


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_a_whole_block_at_once_are_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(DataError, match=r"a\.zip: x is compressed in a way that icecore does not read"):
        read(lying_zip(tmp_path / "a.zip", method, bz2.compress(bytes(MEBIBYTE)), 100))


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    for name, content in {"a.zip": b"PK nothing", "a.tar": b"nothing", "b.tar.gz": b"\x1f\x8b nothing"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} cannot be read .*download or copy it again"):
            read(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"x")
    scandir = os.scandir

    def refuse(place: object) -> object:
        if Path(str(place)).name == "b":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be read .*Permission denied.*b"):
        file_names(tmp_path)
