"""The client and `icecore predict --url`: the same values as with a program file, and clear messages."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icecore
from commandline import Run
from icecore.core.errors import ConfigError, DataError, UserError
from icecore.serving.client import Client, ServerError, to_rows
from icecore.serving.web_app import Access
from live_server import LiveServer, running
from serving_samples import Samples


def test_predict_with_a_url_prints_what_it_prints_with_a_file(server: LiveServer, samples: Samples, run: Run) -> None:
    for name in ("wine", "digits"):
        local = run("predict", samples.program(name), samples.data[name], "--device", "cpu")
        remote = run("predict", "--url", server.url, samples.program(name), samples.data[name])
        by_name = run("predict", "--url", server.url, name, samples.data[name])
        assert local.code == remote.code == by_name.code == 0
        assert remote.out == by_name.out
        ours, theirs = ([line.split(",") for line in ended.out.splitlines()] for ended in (local, remote))
        assert [row[:2] for row in ours] == [row[:2] for row in theirs]
        np.testing.assert_allclose(
            [float(row[2]) for row in ours[1:]], [float(row[2]) for row in theirs[1:]], rtol=1e-4
        )
        assert ("accuracy" in local.err) == ("accuracy" in remote.err)


def test_predict_with_a_url_says_what_is_wrong(server: LiveServer, samples: Samples, run: Run, tmp_path: Path) -> None:
    unknown = run("predict", "--url", server.url, "whine", samples.data["wine"])
    assert unknown.code == 2
    assert "There is no program 'whine'. Did you mean 'wine'?" in unknown.err
    (tmp_path / "rows.csv").write_text("height,town,born\n1.5,Ulm,1980-01-02\n")
    unscored = run("predict", "--url", server.url, "people", tmp_path / "rows.csv", "--score")
    assert unscored.code == 2
    assert "has no targets" in unscored.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = run("predict", "--url", f"http://127.0.0.1:{taken.getsockname()[1]}", "wine", samples.data["wine"])
    assert away.code == 2
    assert "No server answers at http://127.0.0.1:" in away.err


def test_rows_are_divided_into_requests(server: LiveServer, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = np.load(samples.data["waves"])["X"][:7]
    client = Client(server.url)
    whole = client.predict("waves", waves)
    monkeypatch.setattr("icecore.serving.client.ROWS_PER_REQUEST", 3)
    parts = client.predict("waves", waves)
    assert list(parts.names) == list(whole.names) == [str(i) for i in range(7)]
    np.testing.assert_allclose(parts.columns["y probability"], whole.columns["y probability"], rtol=1e-4)
    rows: list[Any] = list(waves)
    rows[5] = [[1.0, 2.0]]
    with pytest.raises(ServerError, match="it must be a sequence") as caught:
        client.ask("waves", rows)
    assert caught.value.answer["rows"][0]["row"] == 5


def test_requests_are_as_large_as_the_server_allows(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = np.load(samples.data["waves"])["X"]
    with running([samples.program("waves")], max_request_mib=0.005) as live, Client(live.url) as client:
        monkeypatch.setattr("icecore.serving.client.UNASKED_BYTES", 1000)
        sizes: list[int] = []
        send = client._send

        def counting(method: str, path: str, raw: bytes | None, headers: Any) -> Any:
            sizes.append(len(raw or b""))
            return send(method, path, raw, headers)

        monkeypatch.setattr(client, "_send", counting)
        answered = client.predict("waves", waves)
        assert list(answered.names) == [str(number) for number in range(len(waves))]
        limit = live.registry.settings.max_bytes
        assert max(sizes) <= limit
        # the largest row would not have fitted into any request but the last
        assert min(size for size in sizes[:-1] if size) > limit / 2
        expected = icecore.predict(samples.program("waves"), str(samples.data["waves"]), device="cpu")
        assert answered.columns["y"].tolist() == expected.columns["y"].tolist()
        with pytest.raises(ServerError, match=r"larger than 0\.005 MiB") as caught:  # one row that is too large
            client.predict("waves", [[0.5] * 5000])
    assert caught.value.status == 413


def test_a_small_request_asks_for_no_limits(server: LiveServer, samples: Samples) -> None:
    client = Client(server.url)
    client.predict("waves", np.load(samples.data["waves"])["X"])
    assert client._max_bytes is None


def test_a_client_closes_its_connections(server: LiveServer) -> None:
    with Client(server.url) as client:
        client.programs()
        (connection,) = client._idle
        assert connection.sock is not None
    assert client._idle == []
    assert connection.sock is None
    assert client.programs()
    client.close()


def test_rows_of_arrays_frames_and_images_become_json() -> None:
    assert to_rows(np.array([[1.5, np.nan]], np.float32)) == [[1.5, None]]
    assert to_rows([{"a": np.int64(3), "b": float("nan"), 4: "x"}]) == [{"a": 3, "b": None, "4": "x"}]
    assert to_rows([b"abc", (1, None)]) == ["YWJj", [1, None]]

    class Frame:
        columns = ("a",)

        def to_dict(self, orient: str) -> list[dict[str, Any]]:
            return [{"a": orient}]

    assert to_rows(Frame()) == [{"a": "records"}]


def test_a_client_changes_programs_with_a_token(samples: Samples) -> None:
    with running([samples.program("wine")], Access(token="right-token", is_local=False)) as live:
        client = Client(live.url, "right-token")
        assert client.put("new", samples.program("people"))["name"] == "new"
        assert [card["name"] for card in client.programs()] == ["new", "wine"]
        client.delete("new")
        with pytest.raises(ServerError, match="A token is needed") as caught:
            Client(live.url).programs()
        assert caught.value.status == 401


def test_a_client_waits_while_the_queue_is_full(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(429, 2.0, b'{"error": {"message": "full"}}'), (200, 0.0, b'{"programs": []}')]
    slept: list[float] = []
    client = Client(server.url)
    monkeypatch.setattr(client, "_send", lambda *_: answers.pop(0))
    monkeypatch.setattr("time.sleep", slept.append)
    assert client.programs() == []
    assert slept == [2.0]
    impatient = Client(server.url, patience=1.0)
    monkeypatch.setattr(impatient, "_send", lambda *_: (429, 2.0, b'{"error": {"message": "full"}}'))
    with pytest.raises(ServerError, match="full"):
        impatient.programs()


def test_mistakes_of_a_caller_have_messages(server: LiveServer, tmp_path: Path) -> None:
    for url in ("ftp://x", "http://", "http://x:port"):
        with pytest.raises(ConfigError, match="is not the address of a server, such as http://localhost:8000"):
            Client(url)
    client = Client(server.url.removeprefix("http://"))
    with pytest.raises(DataError, match="There are no rows"):
        client.predict("wine", [])
    with pytest.raises(DataError, match="cannot be read"):
        client.predict("wine", tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"none.safetensors cannot be read \(No such file"):
        client.put("none", tmp_path / "none.safetensors")
    (tmp_path / "x.doc").touch()
    with pytest.raises(DataError, match=r"files that end in .doc cannot be sent"):
        client.predict("wine", tmp_path / "x.doc")
    card = next(card for card in client.programs() if card["name"] == "bits")
    with pytest.raises(DataError, match="for a built-in task"):
        client.predict("bits", [card["example"]])
    assert issubclass(ServerError, UserError)
    assert icecore.Client is Client
