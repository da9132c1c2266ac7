"""Programs come and go while others answer: over HTTP, and with the files of a folder."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import icecore
from icecore.backbones import Backbone, HubAccess, build_body_of
from icecore.core.config import RunConfig
from icecore.core.errors import WeightsError
from icecore.inference.engine import Engine
from icecore.model.program import Program
from icecore.serving.program_registry import ProgramRegistry
from icecore.serving.served_program import ServedProgram
from icecore.serving.web_app import Access
from live_server import LiveServer, running
from serving_samples import Samples


@pytest.fixture
def live(samples: Samples, tmp_path: Path) -> Iterator[LiveServer]:
    """A server of a folder with one program, which tests may change."""
    (tmp_path / "programs").mkdir()
    shutil.copy(samples.program("wine"), tmp_path / "programs")
    with running([tmp_path / "programs"]) as server:
        yield server


def versions(samples: Samples, folder: Path) -> tuple[bytes, bytes]:
    """Two programs for the same table that answer differently."""
    first = Program.load(samples.program("wine"))
    bias = first.tensors["output.layers.0.bias"].clone()
    bias[0] -= 5
    tensors = {**first.tensors, "output.layers.0.bias": bias}
    Program(first.config, first.spec, first.fingerprint, tensors, {}, {}, first.extra).save(folder / "second.st")
    return samples.program("wine").read_bytes(), (folder / "second.st").read_bytes()


def test_a_program_is_put_and_deleted(live: LiveServer, samples: Samples) -> None:
    raw = samples.program("people").read_bytes()
    assert live.predict("people", [{}]).status == 404
    assert live.ask("PUT", "/v1/programs/people", raw, "application/octet-stream").status == 201
    card = live.ask("GET", "/v1/programs/people").json()
    assert live.predict("people", [card["example"]]).status == 200
    assert live.ask("PUT", "/v1/programs/people", raw, "application/octet-stream").status == 200
    assert live.ask("DELETE", "/v1/programs/people").json() == {"name": "people", "version": card["version"]}
    assert live.ask("DELETE", "/v1/programs/people").status == 404
    assert [card["name"] for card in live.ask("GET", "/v1/programs").json()["programs"]] == ["wine"]


def test_a_change_under_load_fails_no_request_and_mixes_no_answer(
    live: LiveServer, samples: Samples, tmp_path: Path
) -> None:
    old, new = versions(samples, tmp_path)
    example = live.ask("GET", "/v1/programs/wine").json()["example"]
    expected: dict[str, list[float]] = {}
    for raw in (new, old):
        live.ask("PUT", "/v1/programs/wine", raw)
        answer = live.predict("wine", [example]).json()
        expected[answer["version"]] = [row["targets"]["cultivar"]["probability"] for row in answer["predictions"]]
    assert len(expected) == 2
    ended = threading.Event()

    def ask() -> int:
        count = 0
        while not ended.is_set():
            answer = live.predict("wine", [example] * 3)
            assert answer.status == 200
            shown = answer.json()
            for row in shown["predictions"]:
                got = row["targets"]["cultivar"]["probability"]
                assert got == pytest.approx(expected[shown["version"]][0], rel=1e-4)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(ask) for _ in range(4)]
        for number in range(20):
            assert live.ask("PUT", "/v1/programs/wine", (new, old)[number % 2]).status == 200
        ended.set()
        assert sum(caller.result() for caller in callers) >= 4


def test_a_program_of_another_body_is_refused_with_both_fingerprints(
    live: LiveServer, samples: Samples, bodies: Mapping[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    few = {"backbone": bodies["gpt2"], "lrs": (1e-2,), "steps": 2, "batch_size": 4}
    icecore.fit(str(samples.data["people"]), out=path, device="cpu", **few)  # type: ignore[arg-type]
    answer = live.ask("PUT", "/v1/programs/wine", path.read_bytes())
    assert answer.status == 409
    for program in (Program.load(path), Program.load(samples.program("wine"))):
        assert program.fingerprint in answer.error["message"]
    card = live.ask("GET", "/v1/programs/wine").json()
    assert live.predict("wine", [card["example"]]).json()["version"] == card["version"]
    # the operator's folder may bring its body with it
    shutil.copy(path, live.folders.folders[0] / "other.safetensors")
    live.folders.check()
    assert live.ask("GET", "/v1/programs/other").json()["body"]["name"] == "gpt2"
    assert len(live.registry.bodies) == 2


def test_no_change_waits_for_a_body_that_is_being_built(
    live: LiveServer,
    samples: Samples,
    bodies: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {"backbone": bodies["gpt2"], "lrs": (1e-2,), "steps": 2, "batch_size": 4}
    icecore.fit(str(samples.data["people"]), out=tmp_path / "other.safetensors", device="cpu", **few)  # type: ignore[arg-type]
    begun, gate = threading.Event(), threading.Event()
    built: list[str] = []

    def build(config: RunConfig, hub: HubAccess) -> Backbone:
        built.append(config.backbone)
        begun.set()
        assert gate.wait(60)
        return build_body_of(config, hub)

    monkeypatch.setattr("icecore.serving.program_registry.build_body_of", build)
    raw = (tmp_path / "other.safetensors").read_bytes()
    with ThreadPoolExecutor(2) as pool:
        try:
            slow = [pool.submit(live.registry.put, name, raw, may_load_body=True) for name in ("first", "second")]
            assert begun.wait(60)
            program = samples.program("people").read_bytes()
            assert live.ask("PUT", "/v1/programs/people", program).status == 201
            assert live.ask("DELETE", "/v1/programs/people").status == 200
            assert len(live.registry.programs) == 1
        finally:
            gate.set()
        assert slow[0].result().body is slow[1].result().body
    assert len(built) == 1


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-3], lambda raw: raw[:-3] + b"abc", lambda raw: b"", lambda raw: b"x"]
)
def test_a_damaged_program_is_refused(live: LiveServer, samples: Samples, damage: Callable[[bytes], bytes]) -> None:
    before = live.ask("GET", "/v1/programs/wine").json()
    answer = live.ask("PUT", "/v1/programs/wine", damage(samples.program("wine").read_bytes()))
    assert answer.status == 422
    assert live.ask("GET", "/v1/programs/wine").json() == before


@pytest.mark.parametrize("name", ["..%2Fwine", ".hidden", "a%00b", "a%2Fb", "%20", "x" * 101, "-x"])
def test_a_path_is_no_name(live: LiveServer, samples: Samples, name: str) -> None:
    answer = live.ask("PUT", f"/v1/programs/{name}", samples.program("wine").read_bytes())
    assert answer.status in (404, 422)
    assert len(live.registry.programs) == 1


def test_a_folder_is_followed(live: LiveServer, samples: Samples, caplog: pytest.LogCaptureFixture) -> None:
    folder = live.folders.folders[0]
    shutil.copy(samples.program("people"), folder / "new.safetensors")
    shutil.copy(samples.program("people"), folder / ".hidden.safetensors")
    deadline = time.monotonic() + 10
    while live.ask("GET", "/v1/programs/new").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (folder / "bad.safetensors").write_bytes(b"no program")
    (folder / "wine.safetensors").write_bytes(b"no program either")
    live.folders.check()
    state = live.ask("GET", "/ready").json()
    assert (state["programs"], state["refused_files"]) == (2, 2)
    assert state["refused_names"] == ["bad.safetensors", "wine.safetensors"]
    assert "bad.safetensors is not served. bad is not a readable program" in caplog.text
    (folder / "new.safetensors").unlink()
    (folder / "bad.safetensors").unlink()
    shutil.copy(samples.program("wine"), folder / "wine.safetensors")
    live.folders.check()
    state = live.ask("GET", "/ready").json()
    assert (state["refused_files"], state["refused_names"]) == (0, [])
    assert live.predict("new", [{}]).status == 404


def names_served(live: LiveServer) -> dict[str, str]:
    """The first target of each program by its name."""
    return {card["name"]: card["targets"][0]["name"] for card in live.ask("GET", "/v1/programs").json()["programs"]}


def test_a_name_belongs_to_one_of_two_folders(samples: Samples, tmp_path: Path) -> None:
    first, second = (tmp_path / name / "same.safetensors" for name in ("first", "second"))
    for path, name in ((first, "wine"), (second, "people")):
        path.parent.mkdir()
        shutil.copy(samples.program(name), path)
    with running([first.parent, second.parent]) as live:
        assert names_served(live) == {"same": "cultivar"}
        assert live.folders.problems == {second: f"{first} has this name already. Rename one of the files."}
        # a refused file that changes replaces nothing, and one that goes takes nothing with it
        shutil.copy(samples.program("diabetes"), second)
        live.folders.check()
        assert names_served(live) == {"same": "cultivar"}
        second.unlink()
        live.folders.check()
        assert names_served(live) == {"same": "cultivar"}
        assert live.folders.problems == {}
        # the other file takes over when the first is gone
        shutil.copy(samples.program("people"), second)
        live.folders.check()
        first.unlink()
        live.folders.check()
        assert names_served(live) == {"same": "tall"}
        assert live.folders.problems == {}


def test_a_file_that_was_named_keeps_its_name(samples: Samples, tmp_path: Path) -> None:
    copy = tmp_path / "wine.safetensors"
    shutil.copy(samples.program("people"), copy)
    with running([samples.program("wine"), tmp_path]) as live:
        assert names_served(live) == {"wine": "cultivar"}
        assert set(live.folders.problems) == {copy}


def test_a_bad_file_that_goes_takes_no_uploaded_program_with_it(live: LiveServer, samples: Samples) -> None:
    path = live.folders.folders[0] / "people.safetensors"
    path.write_bytes(b"no program")
    live.folders.check()
    live.ask("PUT", "/v1/programs/people", samples.program("people").read_bytes())
    path.unlink()
    live.folders.check()
    assert names_served(live) == {"people": "tall", "wine": "cultivar"}


@pytest.mark.parametrize("fault", [MemoryError("no memory"), ImportError("no module"), RuntimeError("a fault")])
def test_a_file_that_meets_a_fault_keeps_no_other_from_being_served(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    tried: list[str] = []
    put_file = ProgramRegistry.put_file

    def faulty(registry: ProgramRegistry, path: Path) -> ServedProgram:
        tried.append(path.name)
        if path.name == "a.safetensors":
            raise fault
        return put_file(registry, path)

    monkeypatch.setattr(ProgramRegistry, "put_file", faulty)
    for name in ("a", "b"):
        shutil.copy(samples.program("wine"), tmp_path / f"{name}.safetensors")
    with running([tmp_path]) as live:
        live.folders.check()
        assert names_served(live) == {"b": "cultivar"}
        assert tried == ["a.safetensors", "b.safetensors"]
        assert str(fault) in live.folders.problems[tmp_path / "a.safetensors"]


def test_a_token_is_asked_for(samples: Samples) -> None:
    with running([samples.program("wine")], Access(token="right-token")) as live:
        right, wrong = (
            {"Authorization": "Bearer right-token"},
            {"Authorization": "Bearer wröng".encode().decode("latin-1")},
        )
        for path in ("/v1/programs", "/v1/programs/wine", "/openapi.json", "/metrics"):
            assert live.ask("GET", path).status == 401
            assert live.ask("GET", path, None, **wrong).status == 401
            assert live.ask("GET", path, None, Authorization="Basic right-token").status == 401
            assert live.ask("GET", path, None, **right).status == 200
        assert live.predict("wine", [{}]).headers["WWW-Authenticate"] == "Bearer"
        assert live.ask("DELETE", "/v1/programs/wine").status == 401
        for path in ("/", "/docs", "/health", "/ready"):
            assert live.ask("GET", path).status == 200
        assert live.ask("GET", "/ready").json().keys() & {"refused_files", "refused_names"} == {"refused_files"}
        assert live.ask("GET", "/ready", None, **right).json()["refused_names"] == []


def test_programs_are_changed_only_where_that_is_safe(samples: Samples) -> None:
    raw = samples.program("wine").read_bytes()
    with running([samples.program("wine")], Access(is_local=False)) as live:
        assert live.ask("PUT", "/v1/programs/x", raw).error["code"] == "needs_token"
        assert live.ask("DELETE", "/v1/programs/wine").status == 403
    with running([samples.program("wine")], Access(is_replicated=True)) as live:
        assert live.ask("PUT", "/v1/programs/x", raw).error["code"] == "replicated"
        assert live.ask("GET", "/v1/programs", None, Host="evil.example:80").error["code"] == "wrong_host"
        assert live.ask("GET", "/v1/programs", None, Host="localhost:1").status == 200


PREDICT = "/v1/programs/wine/predict"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_site_drives_no_local_server(live: LiveServer, headers: dict[str, str]) -> None:
    """A browser sends such a request without asking first, since its content type is that of a form."""
    example = live.ask("GET", "/v1/programs/wine").json()["example"]
    for method, path in (("POST", PREDICT), ("DELETE", "/v1/programs/wine"), ("GET", "/v1/programs")):
        answer = live.ask(method, path, [example] if method == "POST" else None, "text/plain", **headers)
        assert (answer.status, answer.error["code"]) == (403, "wrong_origin")
    assert 'icecore_rows_total{program="wine"}' not in live.ask("GET", "/metrics").content.decode()
    assert live.ask("GET", "/", None, **headers).status == 200  # a link to the page


def test_the_page_and_the_programs_of_this_machine_are_answered(live: LiveServer) -> None:
    example = live.ask("GET", "/v1/programs/wine").json()["example"]
    for headers in ({"Origin": live.url, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}):
        assert live.ask("POST", PREDICT, [example], **headers).status == 200


def test_a_server_for_others_is_asked_from_any_page_with_the_token(samples: Samples) -> None:
    with running([samples.program("wine")], Access("right-token", is_local=False)) as live:
        headers = {"Origin": "https://own.example", "Authorization": "Bearer right-token", "Host": "name.example"}
        assert live.ask("GET", "/v1/programs", None, **headers).status == 200


def test_a_program_whose_weights_are_at_fault_is_counted_as_it_is_answered(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = live.ask("GET", "/v1/programs/wine").json()["example"]

    def fail(*_: object) -> None:
        raise WeightsError("another body")

    monkeypatch.setattr("icecore.serving.web_app.read_rows", fail)
    assert live.predict("wine", [example]).status == 409
    assert 'icecore_requests_total{program="wine",status="409"} 1.0' in live.ask("GET", "/metrics").content.decode()


def test_metrics_count_requests_rows_and_passes(samples: Samples) -> None:
    with running([samples.program("wine")]) as live:
        example = live.ask("GET", "/v1/programs/wine").json()["example"]
        live.predict("wine", [example] * 3)
        live.predict("wine", [{}])
        for number in range(5):
            live.predict(f"unknown{number}", [{}])
        text = live.ask("GET", "/metrics").content.decode()
    for line in (
        'icecore_requests_total{program="wine",status="200"} 1.0',
        'icecore_requests_total{program="wine",status="422"} 1.0',
        'icecore_requests_total{program="",status="404"} 5.0',
        'icecore_rows_total{program="wine"} 3.0',
        'icecore_request_seconds_count{program="wine"} 1.0',
        'icecore_pass_rows_sum{body="bert"} 3.0',
        'icecore_queue_rows{body="bert"} 0.0',
        "icecore_programs 1.0",
    ):
        assert line in text.splitlines()
    assert "unknown" not in text


def test_the_api_is_described_with_examples_of_the_programs(live: LiveServer) -> None:
    described = live.ask("GET", "/openapi.json").json()
    operation = described["paths"]["/v1/programs/{name}/predict"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["examples"]["wine"]
    assert set(example["value"]["rows"][0]) > {"alcohol", "proline"}
    assert {"200", "401", "404", "413", "415", "422", "429"} <= operation["responses"].keys()
    assert live.predict("wine", example["value"]).status == 200
    live.registry.delete("wine")
    assert not live.ask("GET", "/openapi.json").json()["paths"]["/v1/programs/{name}/predict"]["post"]["requestBody"][
        "content"
    ]["application/json"]["examples"]


def test_cards_have_the_described_shape(live: LiveServer) -> None:
    described = live.ask("GET", "/openapi.json").json()
    card = {"$ref": "#/components/schemas/Card"}
    schemas = {
        (path, method): operation["responses"]["200"]["content"]["application/json"]["schema"]
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    assert schemas["/v1/programs/{name}", "get"] == schemas["/v1/programs/{name}", "put"] == card
    assert schemas["/v1/programs", "get"]["properties"]["programs"]["items"] == card
    required = described["components"]["schemas"]["Card"]["required"]
    assert live.ask("GET", "/v1/programs/wine").json().keys() >= set(required)


def test_the_description_asks_for_a_token_where_one_is_needed(live: LiveServer, samples: Samples) -> None:
    assert "security" not in live.ask("GET", "/openapi.json").content.decode()
    with running([samples.program("wine")], Access("right-token")) as guarded:
        described = guarded.ask("GET", "/openapi.json", None, Authorization="Bearer right-token").json()
    assert list(described["components"]["securitySchemes"]) == ["token"]
    secured = {path for path, operations in described["paths"].items() if "security" in next(iter(operations.values()))}
    assert secured == {path for path in described["paths"] if path.startswith("/v1/")}


def test_kernels_are_compiled_once_for_a_body(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Program] = []
    monkeypatch.setattr(Engine, "compile_kernels", lambda _, program: compiled.append(program))
    programs = [samples.program("wine"), samples.program("people")]
    with running(programs, compile=True) as live:
        assert len(live.registry.programs) == 2
    assert len(compiled) == 1
    with running(programs):
        assert len(compiled) == 1


def test_pages_load_nothing_else(live: LiveServer) -> None:
    for path in ("/", "/docs"):
        page = live.ask("GET", path)
        text = page.content.decode()
        assert "{{" not in text
        for word in ('src="', 'href="http', "@import", "url("):
            assert word not in text
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy


def test_a_full_server_refuses_at_once_and_goes_on(samples: Samples) -> None:
    with running([samples.program("wine")], Access(token="right-token"), max_queue=4) as live:
        right = {"Authorization": "Bearer right-token"}
        example = live.ask("GET", "/v1/programs/wine", None, **right).json()["example"]
        (body,) = live.registry.bodies
        predict, gate = body.engine.predict, threading.Event()
        body.engine.predict = lambda *words, **named: gate.wait(20) and predict(*words, **named)  # type: ignore[method-assign]
        with ThreadPoolExecutor(2) as pool:
            callers = [pool.submit(live.ask, "POST", "/v1/programs/wine/predict", [example] * 4, **right)]
            while body.batcher.waiting or not callers[0].running():
                time.sleep(0.01)
            time.sleep(0.1)
            callers.append(pool.submit(live.ask, "POST", "/v1/programs/wine/predict", [example] * 4, **right))
            while body.batcher.waiting < 4:
                time.sleep(0.01)
            refused = live.ask("POST", "/v1/programs/wine/predict", [example], **right)
            assert (refused.status, refused.error["code"]) == (429, "queue_full")
            assert int(refused.headers["Retry-After"]) == refused.error["retry_after"] >= 1
            assert live.ask("POST", "/v1/programs/wine/predict", [example]).status == 401
            assert live.ask("GET", "/health").status == 200
            gate.set()
            assert [caller.result().status for caller in callers] == [200, 200]
        assert live.ask("POST", "/v1/programs/wine/predict", [example], **right).status == 200
        metrics = live.ask("GET", "/metrics", None, **right).content.decode()
        assert 'icecore_requests_total{program="wine",status="429"} 1.0' in metrics
