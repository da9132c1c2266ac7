"""`icecore serve` as a process: it says where it listens, finishes what it accepted, and explains its mistakes."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import Run
from icecore.serving.http_server import open_socket
from icecore.serving.ray_deployment import RayPlacement
from serving_samples import Samples


@contextlib.contextmanager
def serving(*words: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process of `icecore serve`, and its port."""
    command = [sys.executable, "-m", "icecore", "serve", *map(str, words), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"}
    ) as process:
        assert process.stdout is not None
        try:
            while not (found := re.search(r"Open http://127\.0\.0\.1:(\d+) ", line := process.stdout.readline())):
                assert line, "the server has ended"
            yield process, int(found[1])
        finally:
            process.kill()


@pytest.mark.slow
def test_a_terminated_server_finishes_what_it_accepted(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-long-token\n")
    with serving(samples.program("wine"), "--token-file", tmp_path / "token", "--max-rows", 2) as (process, port):
        headers = {"Authorization": "Bearer a-long-token", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/v1/programs/wine", headers=headers)
        example = json.loads(connection.getresponse().read())["example"]
        started = threading.Event()
        answers: list[tuple[int, int]] = []

        def ask() -> None:
            own = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            own.request("POST", "/v1/programs/wine/predict", json.dumps([example] * 2000), headers)
            started.set()
            answer = own.getresponse()
            answers.append((answer.status, len(json.loads(answer.read())["predictions"])))
            own.close()

        caller = threading.Thread(target=ask)
        caller.start()
        started.wait()
        connection.request("GET", "/health")
        connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGTERM)
        caller.join(60)
        assert answers == [(200, 2000)]
        assert process.wait(30) in (0, -signal.SIGTERM)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.safetensors"], "none.safetensors cannot be read (No such file or directory)"),
        (["{program}", "{program}"], "there is a program 'wine' already. Rename one of the files."),
        (["{program}", "--max-rows", "0"], "max_rows: expected at least 1, found 0"),
        (["{program}", "--token-file", "none"], "--token-file none cannot be read"),
        (["{program}", "--token-file", "{short}"], "must hold one line of at least 8 characters without spaces"),
        (["{program}", "--ray", "local", "--replicas", "4-2"], "--replicas: expected a number above 0 or a range"),
        (["{program}", "--host", "256.0.0.1"], "cannot listen there"),
        (["{data}"], "is not a readable program"),
    ],
)
def test_mistakes_end_with_a_message(
    run: Run, samples: Samples, tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("1234567")
    names = {"program": samples.program("wine"), "short": "short", "data": samples.data["wine"]}
    ended = run("serve", *(word.format(**names) for word in words), "--port", "0")
    assert ended.code == 2
    assert message in ended.err


def test_a_port_that_is_taken_is_named(run: Run, samples: Samples) -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", samples.program("wine"), "--port", port)
    assert ended.code == 2
    assert f"--host 127.0.0.1 --port {port}: cannot listen there" in ended.err


def test_what_is_not_installed_is_named(run: Run, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else find(name))
    ended = run("serve", samples.program("wine"))
    assert ended.code == 2
    assert "icecore serve needs uvicorn. Install it with: pip install 'icecore[serve]'" in ended.err


def test_replicas_are_a_number_or_a_range() -> None:
    assert RayPlacement("local").scaling() == {"num_replicas": 1}
    assert RayPlacement("local", "2-5").scaling()["autoscaling_config"]["max_replicas"] == 5
