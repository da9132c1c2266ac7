"""Ray Serve: two replicas answer as one server does, and a killed one costs its own requests only."""

import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import icecore
from icecore.core.errors import UserError
from icecore.serving.client import Client
from icecore.serving.http_server import ServeOptions
from icecore.serving.ray_deployment import RayPlacement, deploy, with_loopback
from icecore.serving.serve_settings import ServeSettings
from serving_samples import Samples

CALLERS = 6
#: seconds in which answers are counted
WINDOW = 3.0
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None or importlib.util.find_spec("grpc") is None,
        reason="needs Ray Serve: pip install 'ray[serve]'",
    ),
    pytest.mark.slow,
    # Ray leaves files and sockets of its processes to the garbage collector
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Ray Serve on a cluster of this machine; its port."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with_loopback("local")
    import ray
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": number})
    yield number
    serve.shutdown()
    ray.shutdown()


def replicas(since: float) -> list[int]:
    """Process ids of the replicas that were started after a time."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        words = process.info["cmdline"] or []
        if words and words[0].startswith("ray::ServeReplica:icecore") and process.info["create_time"] >= since:
            found.append(process.pid)
    return found


def ready_replicas() -> int:
    """Replicas that Ray Serve sends requests to."""
    from ray import serve

    deployment = serve.status().applications["icecore"].deployments["icecore"]
    return sum(count for state, count in deployment.replica_states.items() if state == "RUNNING")


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.time() + seconds
    while not is_so():
        assert time.time() < deadline
        time.sleep(0.1)


def test_a_killed_replica_costs_its_own_requests_only(samples: Samples, port: int) -> None:
    start = time.time() - 1
    options = ServeOptions([samples.folder], ServeSettings(), "cpu")
    deploy(options, RayPlacement("auto", "2", cpus=0.5), {"num_replicas": 2}, None, is_local=True)
    client = Client(f"http://127.0.0.1:{port}")
    expected = icecore.predict(samples.program("wine"), str(samples.data["wine"]), device="cpu")
    answered = client.predict("wine", samples.data["wine"])
    assert answered.columns["cultivar"].tolist() == expected.columns["cultivar"].tolist()
    with pytest.raises(UserError, match="This server has several replicas"):
        client.delete("wine")
    example = next(card for card in client.programs() if card["name"] == "wine")["example"]
    wait_until(lambda: ready_replicas() == 2, 60)
    assert len(replicas(start)) == 2
    ended = threading.Event()
    answers: list[float] = []
    failures: list[float] = []

    def ask() -> None:
        while not ended.is_set():
            try:
                client.ask("wine", [example])
                answers.append(time.time())
            except UserError:
                failures.append(time.time())

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(ask) for _ in range(CALLERS)]
        time.sleep(2 * WINDOW)
        killed = time.time()
        os.kill(replicas(start)[0], signal.SIGKILL)
        wait_until(lambda: len(replicas(killed)) == 1 and ready_replicas() == 2, 60)
        back = time.time()
        time.sleep(2 * WINDOW)
        last = time.time()
        ended.set()
        for caller in callers:
            caller.result()
    # each caller had at most one request at the replica that died
    assert len(failures) <= CALLERS
    assert not [moment for moment in failures if moment > killed + 5]
    rates = [
        sum(end - WINDOW < moment <= end for moment in answers) / WINDOW for end in (killed, killed + WINDOW, last)
    ]
    before, after, again = rates
    print(
        f"{len(answers)} answers and {len(failures)} failures. Answers/s: {before:.0f} before the kill, {after:.0f} in "
        f"the {WINDOW:g} s after it, {again:.0f} with both replicas again, {back - killed:.1f} s after it."
    )
    assert after > 0
    assert again > 0.5 * before
    assert len(replicas(start)) == 2
    assert (
        client.predict("wine", samples.data["wine"]).columns["cultivar"].tolist()
        == answered.columns["cultivar"].tolist()
    )


def test_programs_that_cannot_be_served_are_an_error(tmp_path: Path) -> None:
    from icecore.core.errors import DataError
    from icecore.serving.ray_deployment import serve_on_ray

    options: Any = ServeOptions([tmp_path / "none.safetensors"], ServeSettings(), "cpu")
    with pytest.raises(DataError, match="There is no program file or folder"):
        serve_on_ray(options, RayPlacement("local"), "127.0.0.1", 0, None, print)
