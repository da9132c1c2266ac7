"""What a request may unpack to is bounded, rows are counted before they are encoded, and no reader delays a change."""

import base64
import io
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from icecore.core.limits import UnpackedSizeError, check_cells, count_pixels, unpacked_limit, unpacking_at_most
from icecore.serving import web_app
from icecore.user_data import image_decoding
from live_server import running
from serving_samples import Samples

NPZ, PARQUET, ZIP = "application/x-npz", "application/vnd.apache.parquet", "application/zip"
#: a server that takes 50 kB takes eight times as much unpacked, and 32 times as many pixels
SMALL = 0.05


def png(side: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "png")
    return file.getvalue()


def npz(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, X=array)
    return file.getvalue()


def parquet() -> bytes:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    pq.write_table(pa.table({"alcohol": np.zeros(100_000)}), file, compression="zstd")
    return file.getvalue()


def archive(*images: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for number, image in enumerate(images):
            written.writestr(f"{number}.png", image)
    return file.getvalue()


@pytest.mark.parametrize(
    ("program", "kind", "make", "message"),
    [
        ("waves", NPZ, lambda: npz(np.zeros((500, 1000, 1), np.float32)), "The file unpacks to more than 0.4 MiB."),
        # small as bytes, but not as the numbers that are made of them
        ("waves", NPZ, lambda: npz(np.zeros((200, 1000, 1), np.int8)), "The file unpacks to more than 0.4 MiB."),
        ("wine", PARQUET, parquet, "The file unpacks to more than 0.4 MiB."),
        ("digits", ZIP, lambda: archive(b"\0" * 500_000), "The file unpacks to more than 0.4 MiB."),
        ("digits", ZIP, lambda: archive(png(1000), png(1000)), "The images have more than 1.68 million pixels in all."),
        ("digits", "image/png", lambda: png(1400), "The images have more than 1.68 million pixels in all."),
    ],
)
def test_a_small_file_does_not_unpack_to_a_large_one(
    samples: Samples, program: str, kind: str, make: Callable[[], bytes], message: str
) -> None:
    with running([samples.program(program)], max_request_mib=SMALL) as live:
        raw = make()
        assert len(raw) < SMALL * 2**20
        answer = live.predict(program, raw, kind)
    assert (answer.status, answer.error["code"]) == (413, "too_large")
    assert answer.error["message"].startswith(message)


def test_all_images_of_a_request_share_one_bound(samples: Samples) -> None:
    image = base64.b64encode(png(600)).decode()
    with running([samples.program("digits")], max_request_mib=SMALL) as live:
        assert live.predict("digits", [image] * 4).status == 200
        answer = live.predict("digits", [image] * 5)
    assert answer.status == 413
    assert answer.error["message"].startswith("The images have more than 1.68 million pixels in all.")


def test_rows_of_a_file_are_counted_before_they_are_encoded(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    to_pixels = image_decoding.to_pixels
    monkeypatch.setattr(image_decoding, "to_pixels", lambda *words: decoded.append(1) or to_pixels(*words))
    with running([samples.program("digits")], max_request_rows=3) as live:
        answer = live.predict("digits", archive(*[png(8)] * 4), ZIP)
        assert (answer.status, decoded) == (413, [])
        assert answer.error["message"] == "The request has 4 rows, and may have 3. Divide it into several."
        assert live.predict("digits", archive(*[png(8)] * 3), ZIP).status == 200
    assert len(decoded) == 3


def test_bounds_end_with_their_block(tmp_path: Any) -> None:
    usual = unpacked_limit(100)
    with unpacking_at_most(1000, 1100):
        assert unpacked_limit(100) == 1000
        count_pixels(600)
        with pytest.raises(UnpackedSizeError):
            count_pixels(600)
        check_cells(tmp_path, 125)
        with pytest.raises(UnpackedSizeError, match="unpacks to more than"):
            check_cells(tmp_path, 126)
    assert unpacked_limit(100) == usual
    count_pixels(10**9)
    check_cells(tmp_path, 10**9)


def test_changes_do_not_wait_for_requests_that_are_being_read(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)
    read_rows = web_app.read_rows

    def slow(*words: Any) -> Any:
        begun.release()
        assert gate.wait(60)
        return read_rows(*words)

    monkeypatch.setattr(web_app, "read_rows", slow)
    raw = samples.program("people").read_bytes()
    table = samples.data["wine"].read_bytes()
    with running([samples.program("wine")]) as live, ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(live.predict, "wine", table, "text/csv") for _ in range(web_app.READER_THREADS + 1)]
        try:
            for _ in range(web_app.READER_THREADS):
                assert begun.acquire(timeout=60)
            assert live.ask("PUT", "/v1/programs/people", raw).status == 201
            assert len(live.ask("GET", "/v1/programs").json()["programs"]) == 2
            assert live.ask("DELETE", "/v1/programs/people").status == 200
        finally:
            gate.set()
        assert [caller.result().status for caller in callers] == [200] * len(callers)
