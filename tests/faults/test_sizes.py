"""Every size is checked before memory or disk is taken, and no time grows faster than the file."""

import gzip
import io
import re
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icecore import user_data
from icecore.backbones import BodyRequest, build_backbone
from icecore.core.errors import ConfigError, DataError, UserError
from icecore.core.limits import unpacked_limit
from icecore.experiments.grid_file import read_grid
from icecore.tasks import build_task, download
from icecore.tasks.archive_unpacking import unpack
from icecore.tasks.containers import matching_files
from icecore.tasks.data_files import read_bytes
from icecore.tasks.datasets import RemoteFile
from icecore.tasks.entry import TaskRequest
from icecore.user_data.data_archives import file_names, read_files

MEBIBYTE = 2**20


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may unpack to one MiB, so that the tests are quick."""
    monkeypatch.setenv("ICECORE_MAX_UNPACKED_GIB", str(1 / 1024))


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """The most memory, in bytes, that the test took so far."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def big_tar(path: Path, size: int, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("folder/a/x.png")
        member.size = size
        archive.addfile(member, io.BytesIO(bytes(size)))
    return path


def test_the_limit_grows_with_the_file_and_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpacked_limit(10) == 2**30
    assert unpacked_limit(2**40) == 100 * 2**40
    monkeypatch.setenv("ICECORE_MAX_UNPACKED_GIB", "0.5")
    assert unpacked_limit(2**40) == 2**29
    monkeypatch.setenv("ICECORE_MAX_UNPACKED_GIB", "much")
    with pytest.raises(ConfigError, match="ICECORE_MAX_UNPACKED_GIB=much: expected a number of GiB"):
        unpacked_limit(1)


def test_a_gzip_bomb(tmp_path: Path, limit: None, peak: Callable[[], int]) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(40 * MEBIBYTE), 1))
    begun = peak()
    with pytest.raises(DataError, match=r"a\.gz unpacks to more than 0\.0 GiB.* ICECORE_MAX_UNPACKED_GIB"):
        read_bytes(path)
    assert peak() - begun < 40 * MEBIBYTE


@pytest.mark.parametrize("kind", ["tar.xz", "zip", "tar.gz"])
def test_archives_that_unpack_to_too_much(tmp_path: Path, limit: None, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("folder/a/x.png", bytes(5 * MEBIBYTE))
    else:
        big_tar(path, 5 * MEBIBYTE, "w:xz" if kind == "tar.xz" else "w:gz")
    with pytest.raises(DataError, match="unpacks to more than"):
        file_names(path)
    with pytest.raises(DataError, match="unpacks to more than"):
        list(read_files(path, ["folder/a/x.png"]))
    with pytest.raises(DataError, match="unpacks to more than"):
        list(matching_files(path, re.compile(".*")))
    if kind != "zip":
        with pytest.raises(DataError, match="unpacks to more than"):
            unpack(path, "folder", tmp_path / "target")
    assert {file.name for file in tmp_path.iterdir()} == {path.name}


def test_a_sparse_tar_of_ten_terabytes(tmp_path: Path) -> None:
    """The sparse member takes one block of the archive, and 10 TB of memory if it is read."""
    member = tarfile.TarInfo("a/x.png")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "a/x.png",
        "GNU.sparse.realsize": str(10**13),
    }
    content = b"0\n".ljust(512, b"\0")
    member.size = len(content)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match="unpacks to more than"):
        list(read_files(tmp_path / "a.tar", ["a/x.png"]))


def test_an_endless_line_behind_gzip(tmp_path: Path, limit: None) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n1," + b"x" * (4 * MEBIBYTE)))
    with pytest.raises(DataError, match="unpacks to more than"):
        user_data.plan(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_gzip_bomb_of_rows_in_another_encoding(tmp_path: Path, limit: None, encoding: str) -> None:
    start, row = "a,b\n\xff,1\n".encode(encoding), "1,2\n".encode(encoding).removeprefix(b"\xff\xfe")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(start + row * MEBIBYTE))
    with pytest.raises(DataError, match="unpacks to more than"):
        user_data.plan(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("name", ["a.txt", "a.fasta", "a.csv"])
def test_an_endless_line_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("icecore.core.limits.MAX_LINE", 1000)
    (tmp_path / name).write_bytes(b">a label=x\n1\t" + b"x" * 2000)
    with pytest.raises(DataError, match=rf"{name} has a line of more than 1,000 characters"):
        user_data.plan(tmp_path / name)


def test_a_parquet_file_of_many_equal_rows(tmp_path: Path, limit: None) -> None:
    table = pa.table({"a": np.zeros(MEBIBYTE, np.int8), "target": np.ones(MEBIBYTE, np.int8)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(DataError, match=r"a\.parquet unpacks to more than"):
        user_data.plan(tmp_path / "a.parquet")


def test_a_long_text_that_a_parquet_file_repeats_is_there_once(tmp_path: Path, peak: Callable[[], int]) -> None:
    texts = ["x" * MEBIBYTE, "y" * MEBIBYTE, None]
    pq.write_table(pa.table({"a": texts * 100, "target": [1, 2, 1] * 100}), tmp_path / "a.parquet")
    begun = peak()
    assert user_data.plan(tmp_path / "a.parquet").encoder.inputs.token_size == 3
    assert peak() - begun < 40 * MEBIBYTE


def test_a_file_larger_than_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icecore.core.device.total_memory", lambda device: MEBIBYTE)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes(2 * MEBIBYTE))
    with pytest.raises(DataError, match="of memory of this machine"):
        read_bytes(tmp_path / "train-images-idx3-ubyte")


def test_an_image_is_only_taken_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would give PostScript to Ghostscript, which runs it, whatever the file's name is."""
    from PIL import EpsImagePlugin

    def run(*_: object, **__: object) -> None:
        raise AssertionError("PostScript ran")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    for number in range(8):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(script)
    with pytest.raises(DataError, match="none of the 8 images tried is readable"):
        user_data.plan(tmp_path / "images")


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icecore.core.limits.MAX_LINE", 1000)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n" + "x" * 2000)
    with pytest.raises(DataError, match=r"a\.csv has a line of more than 1,000 characters"):
        user_data.plan(tmp_path / "a.csv")


def test_a_header_that_asks_for_rows_that_are_not_there(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**12, 3), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X.npy", header.getvalue() + bytes(100))
    (tmp_path / "b.npy").write_bytes(header.getvalue() + bytes(100))
    np.save(tmp_path / "c.npy", np.zeros((3, 2)))
    (tmp_path / "y.npy").write_bytes(header.getvalue())
    for name, bad in {"a.npz": "a.npz", "b.npy": "b.npy", "c.npy": "y.npy"}.items():
        with pytest.raises(DataError, match=rf"{bad} cannot be read as an array"):
            user_data.plan(tmp_path / name)


def test_time_grows_no_faster_than_the_number_of_columns(tmp_path: Path) -> None:
    seconds: list[float] = []
    for columns in (1_000, 4_000):
        rows = [[f"c{i}" for i in range(columns)], *([str((i * k) % 7) for i in range(columns)] for k in range(12))]
        (tmp_path / "a.csv").write_text("\n".join(",".join(row) for row in rows))
        begun = time.process_time()
        user_data.plan(tmp_path / "a.csv")
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 10 * seconds[0]


def test_a_grid_of_ten_million_combinations(tmp_path: Path) -> None:
    many = str(list(range(1, 216)))
    path = tmp_path / "a.toml"
    path.write_text(f'task = "bit-xor"\nsteps = {many}\npatience = {many}\neval_every = {many}\n')
    with pytest.raises(ConfigError, match=r"multiply to 9,938,375 combinations.*max_combinations = 9938375"):
        read_grid(path, "cpu")
    path.write_text(f'task = "bit-xor"\nlr = {many}\nseed = {many}\n')
    with pytest.raises(ConfigError, match=r"multiply to 46,225 combinations"):
        read_grid(path, "cpu")
    path.write_text('task = "bit-xor"\nsteps = [1, 2, 3]\nmax_combinations = 2\n')
    with pytest.raises(ConfigError, match="3 combinations, but at most 2"):
        read_grid(path, "cpu")


@pytest.mark.parametrize("text", ["a = " + "[" * 10_000, "a." * 10_000 + "b = 1", "a = " + "1" * 5000, "a = '\xff'"])
def test_an_odd_grid_file_is_a_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text, "latin-1")
    with pytest.raises(ConfigError, match=r"a\.toml is not a readable TOML file"):
        read_grid(tmp_path / "a.toml", "cpu")


@pytest.mark.parametrize("options", [{"n": 10**9}, {"n": 10**400}, {"n": float("inf")}, {"n": [1]}])
def test_a_task_of_sizes_that_no_machine_holds(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"option n of bit-xor|would have"):
        build_task("bit-xor", TaskRequest(options))


@pytest.mark.parametrize("name", ["lstm", "lstm-star"])
def test_a_body_of_ten_million_layers(name: str) -> None:
    with pytest.raises(UserError, match=r"with 10,000,000 layers would need about [\d,.]+ GiB"):
        build_backbone(BodyRequest(name, "random", layers=10**7))


class _Server(BaseHTTPRequestHandler):
    """Sends without a length for ever, or a byte now and then, or to a broken address."""

    def do_GET(self) -> None:
        if self.path in ("/headers", "/trailers", "/large", "/ftp"):
            self.send_slowly()
            return
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://[broken/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" if self.path == "/slow" else bytes(2**16))
                if self.path == "/slow":
                    time.sleep(0.02)
        except OSError:
            return

    def send_slowly(self) -> None:
        """Headers, or lines after the content, byte by byte for ever; a size beyond all limits; another scheme."""
        begin = {
            "/headers": b"HTTP/1.1 200 OK\r\nX: ",
            "/trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: ",
            "/large": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "/ftp": b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1:1/x\r\n\r\n",
        }
        self.wfile.write(begin[self.path])
        try:
            for _ in range(100 * (self.path in ("/headers", "/trailers"))):  # longer than the client waits
                self.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            return

    def log_message(self, format: str, *args: object) -> None:
        pass


# the thread of an attempt that was given up ends with its server
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        ("/endless", None, r"it sends more than [\d,]+ bytes"),
        ("/endless", 100_000, r"it sends more than [\d,]+ bytes"),
        ("/slow", None, r"it sends only \d+ bytes per second"),
        ("/redirect", None, "broken address|no host|Invalid"),
        ("/headers", None, "it did not answer within"),
        ("/trailers", None, "it sent nothing for"),
        ("/large", None, "it offers 99,999,999,999 bytes, but at most 262,144 are fetched"),
        ("/ftp", None, "refused|another kind than http"),
    ],
)
def test_downloads_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, size: int | None, message: str
) -> None:
    monkeypatch.setattr(download, "MAX_UNKNOWN_BYTES", 2**18)
    monkeypatch.setattr(download, "SPEED_SECONDS", 0.2)
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.5)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        file = RemoteFile((f"http://127.0.0.1:{server.server_port}{path}",), "a.bin", size=size)
        with pytest.raises(DataError, match=message):
            download.fetch(file, tmp_path, tries=1, pause=0)
    finally:
        server.shutdown()
        server.server_close()
    assert not (tmp_path / "a.bin").exists()
