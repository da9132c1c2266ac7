"""Downloads from a server on this machine: complete, resumed, refused; no wrong byte gets a final name."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from icecore.core.errors import ConfigError, DataError, StorageError
from icecore.tasks import download
from icecore.tasks.archive_unpacking import unpack
from icecore.tasks.datasets import DATASETS, Dataset, RemoteFile
from icecore.tasks.download import fetch, get

BODY = bytes(i * i % 251 for i in range(300_000))


@dataclass
class Site:
    """What the server has and how it misbehaves; `asked` records (path, first byte asked for)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes sent before the line breaks, one entry an answer
    ranges: bool = True
    tags: bool = True
    status: int | None = None  # answer this to everything
    asked: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            site.asked.append((self.path, start))
            body = site.files.get(self.path)
            if body is None or site.status:
                self.send_error(site.status or 404)
                return
            start = start if site.ranges else 0
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if site.tags:
                self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:][: site.cut_after.pop(0) if site.cut_after else None])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site.url = f"http://127.0.0.1:{server.server_port}"
    site.files["/data.bin"] = BODY
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data).hexdigest()}"


def bring(site: Site, folder: Path, *paths: str, tries: int = 1, **changes: Any) -> Path:
    urls = tuple(site.url + path for path in paths or ("/data.bin",))
    file = RemoteFile(urls, "set/data.bin", md5(BODY))
    return fetch(replace(file, **changes), folder, tries=tries, timeout=5, pause=0)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "set").iterdir())


# ---------------------------------------------------------------------------------------- whole and continued


def test_a_whole_download_and_no_second_one(site: Site, tmp_path: Path):
    assert bring(site, tmp_path, size=len(BODY)).read_bytes() == BODY
    assert bring(site, tmp_path) == tmp_path / "set/data.bin"
    assert site.asked == [("/data.bin", 0)]
    assert left_over(tmp_path) == ["data.bin"]


def test_progress_ends_at_the_total(site: Site, tmp_path: Path):
    seen: list[tuple[int, int | None]] = []
    fetch(RemoteFile((f"{site.url}/data.bin",), "data.bin"), tmp_path, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_cut_connection_is_continued_within_a_call(site: Site, tmp_path: Path):
    site.cut_after = [100_000, 50_000]
    assert bring(site, tmp_path, tries=3).read_bytes() == BODY
    assert [start for _, start in site.asked] == [0, 100_000, 150_000]


def test_a_truncated_body_is_never_used_and_a_later_call_continues_it(site: Site, tmp_path: Path):
    site.cut_after = [123_456]
    with pytest.raises(
        DataError,
        match=r"connection was cut: expected 300000 bytes, found 123456(?s:.*)\.part, and the next call resumes",
    ):
        bring(site, tmp_path)
    assert left_over(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    assert bring(site, tmp_path).read_bytes() == BODY
    assert site.asked[-1] == ("/data.bin", 123_456)
    assert left_over(tmp_path) == ["data.bin"]


def test_a_server_without_ranges_is_read_from_the_start(site: Site, tmp_path: Path):
    site.ranges, site.cut_after = False, [1000]
    assert bring(site, tmp_path, tries=2).read_bytes() == BODY
    assert [start for _, start in site.asked] == [0, 1000]


def test_a_whole_part_needs_no_request(site: Site, tmp_path: Path):
    site.cut_after = [1000]
    with pytest.raises(DataError):
        bring(site, tmp_path)
    (tmp_path / "set/data.bin.part").write_bytes(BODY)  # as after an interruption before the checksum
    assert bring(site, tmp_path).read_bytes() == BODY
    assert len(site.asked) == 1


def test_a_part_of_unknown_origin_is_not_continued(site: Site, tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data.bin.part").write_bytes(b"whatever")
    assert bring(site, tmp_path).read_bytes() == BODY
    assert site.asked == [("/data.bin", 0)]


# ---------------------------------------------------------------------------------------- changed files


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("new", [BODY[::-1] + b"more", BODY[:5000][::-1]], ids=["longer", "shorter"])
def test_a_file_that_changed_between_attempts_is_started_over(site: Site, tmp_path: Path, new: bytes, tags: bool):
    site.cut_after, site.tags = [70_000], tags
    with pytest.raises(DataError):
        bring(site, tmp_path)
    site.files["/data.bin"] = new
    assert bring(site, tmp_path, tries=2, checksum=md5(new)).read_bytes() == new
    assert [start for _, start in site.asked] == [0, 70_000, 0]


def test_a_wrong_checksum_is_named_and_removed(site: Site, tmp_path: Path):
    wrong = "md5:" + "0" * 32
    with pytest.raises(
        DataError, match=rf"data\.bin: could not(?s:.*)md5 0+, found {md5(BODY)[4:]}, so it was removed"
    ):
        bring(site, tmp_path, tries=3, checksum=wrong)
    assert left_over(tmp_path) == []
    assert len(site.asked) == 1


def test_a_wrong_size_is_refused_before_it_is_fetched(site: Site, tmp_path: Path):
    with pytest.raises(DataError, match="expected 12 bytes, found 300000"):
        bring(site, tmp_path, size=12)
    assert left_over(tmp_path) == []


def test_a_file_changed_on_disk_is_refused(site: Site, tmp_path: Path):
    target = bring(site, tmp_path)
    target.write_bytes(b"edited")
    with pytest.raises(DataError, match=r"data\.bin: expected md5 \w+, found \w+\. Remove it and download it again"):
        bring(site, tmp_path)
    assert target.read_bytes() == b"edited"


def test_without_a_published_checksum_the_first_download_is_pinned(site: Site, tmp_path: Path):
    target = bring(site, tmp_path, checksum=None)
    pin = tmp_path / "set/data.bin.sha256"
    assert pin.read_text().split() == [hashlib.sha256(BODY).hexdigest(), "data.bin"]
    target.unlink()
    site.files["/data.bin"] = b"another"
    with pytest.raises(DataError, match=r"as at the first download \(remove .*data\.bin\.sha256 to accept"):
        bring(site, tmp_path, checksum=None)
    pin.unlink()
    assert bring(site, tmp_path, checksum=None).read_bytes() == b"another"


# ---------------------------------------------------------------------------------------- mirrors and failures


def test_the_second_mirror_serves_what_the_first_lacks(site: Site, tmp_path: Path):
    site.files["/copy.bin"] = BODY
    assert bring(site, tmp_path, "/absent.bin", "/copy.bin", tries=3).read_bytes() == BODY
    assert [path for path, _ in site.asked] == ["/absent.bin", "/copy.bin"]


def test_a_broken_mirror_does_not_spoil_a_good_one(site: Site, tmp_path: Path):
    site.files["/bad.bin"] = BODY[:-1] + b"x"
    assert bring(site, tmp_path, "/bad.bin", "/data.bin").read_bytes() == BODY


def test_a_passing_refusal_is_tried_again_and_every_url_is_named(site: Site, tmp_path: Path):
    site.status = 503
    with pytest.raises(DataError) as caught:
        bring(site, tmp_path, "/data.bin", "/copy.bin", tries=2)
    assert len(site.asked) == 4
    for path in ("/data.bin", "/copy.bin"):
        assert f"{site.url}{path}: the server answers 503" in str(caught.value)


def test_offline_says_url_cause_and_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = "http://127.0.0.1:1/data.bin"  # nothing listens on port 1
    with pytest.raises(DataError) as caught:
        fetch(RemoteFile((url,), "set/data.bin"), tmp_path, tries=2, timeout=5, pause=0)
    assert str(caught.value).count(url) == 1
    assert "refused" in str(caught.value)
    assert f"put that file at {tmp_path / 'set/data.bin'}" in str(caught.value)


def test_an_unwritable_folder_is_a_storage_error(site: Site, tmp_path: Path):
    (tmp_path / "set").write_text("a file where a folder must be")
    with pytest.raises(StorageError, match=r"cannot be written .*--dest or ICECORE_CACHE"):
        bring(site, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_storage_error(site: Site, tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data.bin.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"data\.bin\.part: cannot be written \(No space left"):
        bring(site, tmp_path)


# ---------------------------------------------------------------------------------------- archives


def tar(**members: bytes | tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_only_the_folder_asked_for_is_unpacked(site: Site, tmp_path: Path):
    members = {"top/wanted/a.txt": b"a", "top/wanted/deep/b.txt": b"b", "top/other/c.txt": b"c", "top/wanted.txt": b"d"}
    site.files["/all.gz"] = body = tar(**members)
    wanted: dict[str, Any] = {"path": "set/kept", "checksum": md5(body), "inside": "wanted"}
    target = bring(site, tmp_path, "/all.gz", **wanted)
    assert bring(site, tmp_path, "/all.gz", **wanted) == target
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {"a.txt": b"a", "deep/b.txt": b"b"}
    assert left_over(tmp_path) == ["kept"]
    assert len(site.asked) == 1


def link(target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("wanted/link")
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def device() -> tarfile.TarInfo:
    info = tarfile.TarInfo("wanted/device")
    info.type = tarfile.CHRTYPE
    return info


@pytest.mark.parametrize(
    "members",
    [
        {"../evil.txt": b"x"},
        {"wanted/../../../evil.txt": b"x"},
        {"other/wanted/../../wanted/../../evil.txt": b"x"},
        {"link": link("../../evil")},
        {"link": link("/etc")},
        {"device": device()},
    ],
    ids=["parent", "below", "inner", "link", "absolute-link", "device"],
)
def test_an_archive_that_leads_outside_is_refused(tmp_path: Path, members: dict[str, bytes | tarfile.TarInfo]):
    archive = tmp_path / "deep" / "a.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(tar(**{"wanted/fine.txt": b"y"}, **members))
    with pytest.raises(DataError, match=r"a\.tar\.gz: the archive is unsafe and was not unpacked"):
        unpack(archive, "wanted", archive.parent / "kept")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "deep"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>please log in</html>", "expected a tar archive, found damaged data"),
        (tar(**{"wanted/a": BODY})[:-500], "expected a tar archive, found damaged data"),
        (tar(**{"other/a": b""}), "expected files in a folder wanted, found none"),
    ],
    ids=["html", "cut", "other"],
)
def test_an_archive_of_another_kind_is_neither_kept_nor_pinned(site: Site, tmp_path: Path, body: bytes, message: str):
    site.files["/all.gz"] = body
    with pytest.raises(DataError, match=message):
        bring(site, tmp_path, "/all.gz", path="set/kept", checksum=None, inside="wanted")
    assert left_over(tmp_path) == []


# ---------------------------------------------------------------------------------------- the table


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"Unknown data set 'mnits'\. Did you mean 'mnist'\? Known: cifar10, listops"):
        get("mnits")


def test_get_fills_the_cache_or_the_folder_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = tuple(RemoteFile((f"{site.url}/data.bin",), f"set/{name}", md5(BODY)) for name in "ab")
    monkeypatch.setattr(download, "DATASETS", {"two": Dataset(files, "")})
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / "cache"))
    assert get("two") == [tmp_path / "cache/set/a", tmp_path / "cache/set/b"]
    assert get("two", tmp_path / "here") == [tmp_path / "here/set/a", tmp_path / "here/set/b"]


def test_the_table_is_well_formed():
    digits = {"md5": 32, "sha256": 64}
    files = [file for dataset in DATASETS.values() for file in dataset.files]
    assert len({file.path for file in files}) == len(files)
    for file in files:
        assert file.urls
        assert not Path(file.path).is_absolute()
        if file.checksum:
            algorithm, _, value = file.checksum.partition(":")
            assert len(bytes.fromhex(value)) * 2 == digits[algorithm]
        else:  # nothing but the transport vouches for the first download
            assert all(url.startswith("https://") for url in file.urls)
