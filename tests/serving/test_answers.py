"""Served answers are those of `icecore predict`, and what is wrong with a request is said with its row and column."""

import base64
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icecore
from icecore.serving.client import Client, read_file
from icecore.serving.json_answers import to_json
from icecore.serving.request_errors import RequestError
from icecore.serving.request_reading import ByteBudget
from live_server import LiveServer, running
from serving_samples import Samples

FORMS = ("wine", "diabetes", "people", "digits", "proteins", "waves")


def cells(row: Mapping[str, str], texts: tuple[str, ...] = ()) -> dict[str, Any]:
    """A row of a CSV file as JSON has it: numbers, texts, and null for an empty cell."""
    return {name: None if not cell else cell if name in texts else float(cell) for name, cell in row.items()}


@pytest.fixture
def wine(samples: Samples) -> list[dict[str, Any]]:
    return [cells(row, ("cultivar",)) for row in samples.rows("wine")]


@pytest.mark.parametrize("name", FORMS)
def test_a_file_gets_the_answers_of_predict(server: LiveServer, samples: Samples, name: str) -> None:
    expected = icecore.predict(samples.program(name), str(samples.data[name]), device="cpu")
    answered = Client(server.url).predict(name, samples.data[name])
    assert list(answered.names) == list(expected.names)
    assert list(answered.columns) == list(expected.columns)
    for column, values in expected.columns.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(answered.columns[column], values, rtol=1e-4, atol=1e-6)
        else:
            assert answered.columns[column].tolist() == values.tolist()
    assert answered.score == pytest.approx(expected.score)
    assert answered.metric_name == expected.metric_name
    assert set(answered.notes) == set(expected.notes)


def _json_rows(samples: Samples, name: str) -> list[Any]:
    path = samples.data[name]
    if name in ("wine", "diabetes", "people"):
        return [cells(row, ("cultivar", "town", "born", "tall")) for row in samples.rows(name)]
    if name == "digits":
        return [file.read_bytes() for file in sorted(path.rglob("*.png"))]
    if name == "waves":
        return list(np.load(path)["X"][:, :, 0])
    return [part.partition("\n")[2].strip() for part in path.read_text().split(">")[1:]]


@pytest.mark.parametrize("name", FORMS)
def test_rows_of_json_get_the_answers_of_predict(server: LiveServer, samples: Samples, name: str) -> None:
    rows = _json_rows(samples, name)
    expected = icecore.predict(samples.program(name), str(samples.data[name]), device="cpu")
    answered = Client(server.url).predict(name, rows)
    for column, values in expected.columns.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(answered.columns[column], values, rtol=1e-4, atol=1e-6)
        else:
            assert answered.columns[column].tolist() == values.tolist()


def test_callers_of_different_programs_share_passes_and_get_their_own_answers(
    server: LiveServer, samples: Samples
) -> None:
    alone = {name: Client(server.url).ask(name, _json_rows(samples, name)[:8]) for name in FORMS}
    barrier = threading.Barrier(24)

    def ask(number: int) -> None:
        name = FORMS[number % len(FORMS)]
        row = number // len(FORMS)
        barrier.wait()
        (answer,) = Client(server.url).ask(name, _json_rows(samples, name)[row : row + 1])["predictions"]
        expected = alone[name]["predictions"][row]
        assert answer["targets"].keys() == expected["targets"].keys()
        for target, value in expected["targets"].items():
            got = answer["targets"][target]
            assert got.get("class") == value.get("class")
            key = "probability" if "probability" in value else "value"
            assert got[key] == pytest.approx(value[key], rel=1e-4)

    passes = server.registry.metrics.registry.get_sample_value("icecore_pass_rows_count", {"body": "bert"}) or 0
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(ask, range(24)))
    after = server.registry.metrics.registry.get_sample_value("icecore_pass_rows_count", {"body": "bert"}) or 0
    assert after - passes < 24


WRONG_CELLS: list[tuple[Callable[[dict[str, Any]], Any], str | None, str]] = [
    (lambda row: row | {"ash": float("nan")}, "ash", "nan: it must be a finite number, or null if it is missing."),
    (lambda row: row | {"ash": float("-inf")}, "ash", "-inf: it must be a finite number"),
    (lambda row: row | {"ash": 10**400}, "ash", "it must be a finite number"),
    (lambda row: row | {"ash": "nan"}, "ash", "nan: it must be a finite number"),
    (lambda row: row | {"ash": "much"}, "ash", "it must hold a number, but has 'much'."),
    (lambda row: row | {"ash": [1.0]}, "ash", "it must hold a number, but has [1.0]."),
    (
        lambda row: {k.replace("ash", "asch") if k == "ash" else k: v for k, v in row.items()},
        "ash",
        "has 'asch' instead",
    ),
    (lambda row: {}, "alcohol", "it is missing."),
    (lambda row: list(row.values()), None, "it is a list, but the program's columns have names."),
    (lambda row: "13.2", None, "it must be an object with the cells by column, but is '13.2'."),
    (lambda row: None, None, "it must be an object with the cells by column, but is None."),
]


@pytest.mark.parametrize(("change", "column", "message"), WRONG_CELLS)
def test_a_wrong_row_is_named_with_its_column(
    server: LiveServer, wine: list[dict[str, Any]], change: Callable[[dict[str, Any]], Any], column: str, message: str
) -> None:
    answer = server.predict("wine", {"rows": [wine[0], change(wine[1]), wine[2]]})
    assert answer.status == 422
    problem = answer.error["rows"][0]
    assert (problem["row"], problem["column"]) == (1, column)
    assert message in problem["message"]
    assert answer.error["message"].startswith("Row 1" + ("" if column is None else f", column {column!r}"))


@pytest.mark.parametrize(
    ("program", "row", "message"),
    [
        ("people", {"height": 1.5, "town": "Ulm", "born": "yesterday"}, "it must hold a date such as 2026-01-31"),
        ("waves", [1.0, float("inf")], "at [1] it has inf"),
        ("waves", [[1.0, 2.0]], "it must be a sequence of the shape (T,) or (T, 1), but has the shape (1, 2)."),
        ("waves", [], "it must be a sequence"),
        ("waves", [1.0, [2.0]], "it must hold numbers only, in lists of equal lengths."),
        ("waves", "1 2 3", "it must be a list of numbers"),
        ("waves", [1e39], "finite number"),
        ("proteins", 7, "it must be a text, but is 7."),
        ("proteins", {"seq": "ACD"}, "it must be a text, but has seq."),
        ("digits", "no image", "it must be an image file in Base64"),
        ("digits", base64.b64encode(b"no image").decode(), "it is not a readable image"),
        ("digits", [[0, 300]], "its pixels must be from 0 to 255"),
        ("digits", [1, 2], "it must be pixels of the shape (H, W) or (H, W, 3), but has the shape (2,)."),
        ("bits", [[0.0, 1.0]], "it must have the shape (T, "),
        ("bits", [[float("nan")]], "finite number"),
    ],
)
def test_a_row_of_another_shape_is_named(server: LiveServer, program: str, row: Any, message: str) -> None:
    answer = server.predict(program, [row])
    assert answer.status == 422
    assert answer.error["rows"][0]["row"] == 0
    assert message in answer.error["rows"][0]["message"]


def test_other_rows_are_answered_where_that_is_asked_for(server: LiveServer, wine: list[dict[str, Any]]) -> None:
    rows = [wine[0], {}, wine[2]]
    answer = server.predict("wine", {"rows": rows}, query="?partial=true").json()
    alone = server.predict("wine", {"rows": [wine[0], wine[2]]}).json()
    assert [row["row"] for row in answer["predictions"]] == [0, 1, 2]
    assert answer["predictions"][1]["errors"][0]["column"] == "alcohol"
    assert [answer["predictions"][i]["targets"]["cultivar"]["class"] for i in (0, 2)] == [
        row["targets"]["cultivar"]["class"] for row in alone["predictions"]
    ]
    assert server.predict("wine", {"rows": [{}]}, query="?partial=true").status == 422


def test_missing_cells_are_filled_as_in_a_file(server: LiveServer, wine: list[dict[str, Any]]) -> None:
    answer = server.predict("wine", [wine[0] | {"ash": None}])
    assert answer.status == 200
    assert "missing numbers with the mean" in answer.json()["notes"][0]["message"]
    assert server.predict("people", [{"height": 1.2, "town": "Rom", "born": None}]).json()["notes"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The request is not JSON"),
        (b"\xff\xfe", "The request is not JSON"),
        (b"[" * 100_000, "The request is not JSON (it is nested too deeply)."),
        (b"{}", 'The request must be {"rows": [...]} or a list of rows, but has None.'),
        (b'{"rows": []}', "The request has no rows. Send at least one."),
        (b'{"row": [1]}', "The request has 'row', which is not known."),
        (b"[1" + b"0" * 5000 + b"]", "The request is not JSON"),
    ],
)
def test_a_request_that_has_no_rows_says_so(server: LiveServer, content: bytes, message: str) -> None:
    answer = server.predict("wine", content)
    assert answer.status == 422
    assert message in answer.error["message"]


def test_an_unknown_program_gets_the_nearest_names(server: LiveServer) -> None:
    answer = server.predict("whine", [{}])
    assert answer.status == 404
    assert answer.error["nearest"] == ["wine"]
    assert "Did you mean 'wine'?" in answer.error["message"]
    assert server.ask("GET", "/v1/programs/..%2F..%2Fetc").status == 404
    assert server.ask("GET", "/nowhere").error["code"] == "no_such_route"
    assert server.ask("PATCH", "/health").status == 405


@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/programs/wine", "DELETE, GET, PUT"), ("/v1/programs", "GET"), ("/health", "GET")]
)
def test_a_method_that_a_path_lacks_gets_those_it_has(server: LiveServer, path: str, allowed: str) -> None:
    answer = server.ask("OPTIONS", path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.error["code"] == "wrong_method"


@pytest.mark.parametrize(
    ("program", "kind"), [("wine", "image/png"), ("digits", "text/csv"), ("bits", "text/csv"), ("wine", "text/html")]
)
def test_a_media_type_that_a_program_cannot_read_lists_those_it_can(
    server: LiveServer, program: str, kind: str
) -> None:
    answer = server.predict(program, b"a,b\n1,2\n", kind)
    assert answer.status == 415
    assert "application/json" in answer.error["accepted"]
    assert kind not in answer.error["accepted"]


def test_no_name_in_a_request_is_opened(server: LiveServer, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    image = next(samples.data["digits"].rglob("*.png"))
    opened: list[str] = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: opened.append(str(path)) or is_file(path))
    table = f"file,alcohol\n{image},1\n".encode()
    for program in ("wine", "people", "proteins", "waves"):
        assert server.predict(program, table, "text/csv").status == 422
    assert server.predict("digits", [str(image)]).status == 422
    assert server.predict("digits", table, "application/octet-stream").status == 422
    assert opened
    assert not [path for path in opened if str(image) in path]


def test_limits_of_size_and_rows(samples: Samples, wine: list[dict[str, Any]]) -> None:
    with running([samples.program("wine")], max_request_mib=0.01, max_request_rows=5) as small:
        assert small.predict("wine", wine[:6]).error["message"] == (
            "The request has 6 rows, and may have 5. Divide it into several."
        )
        large = small.predict("wine", b" " * 20_000)
        assert large.status == 413
        assert large.error["message"] == "The request is larger than 0.01 MiB. Divide it into several."
        assert small.predict("wine", wine[:5]).status == 200
        table = samples.data["wine"].read_text().splitlines()[:8]
        assert small.predict("wine", "\n".join(table).encode(), "text/csv").status == 413


@pytest.mark.parametrize("name", [*FORMS, "bits"])
def test_the_example_of_a_card_is_answered_with_where_the_program_looked(server: LiveServer, name: str) -> None:
    card = server.ask("GET", f"/v1/programs/{name}").json()
    answer = server.predict(name, {"rows": [card["example"]]}, query="?explain=attention").json()
    (row,) = answer["predictions"]
    explained = row["explanation"]
    T = len(explained["labels"])
    assert len(explained["attention"]) == len(explained["map"]) == T
    assert sum(explained["attention"]) == pytest.approx(1, abs=1e-3)
    assert np.mean(explained["layers"], 0) == pytest.approx(np.array(explained["attention"]), abs=1e-4)
    np.testing.assert_allclose(np.sum(explained["map"], 1), 1, atol=1e-3)
    assert answer["version"] == card["version"]


def test_too_many_rows_to_explain_are_refused(server: LiveServer, wine: list[dict[str, Any]]) -> None:
    answer = server.predict("wine", wine[:17], query="?explain=attention")
    assert answer.status == 413
    assert "17 rows cannot be explained at once. Send at most 16." in answer.error["message"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?top=0", "top: Input should be greater than or equal to 1"),
        ("?top=x&partial=perhaps", "partial: Input should be a valid boolean"),
        ("?explain=all", "explain: Input should be '' or 'attention'"),
    ],
)
def test_a_wrong_option_is_named(server: LiveServer, wine: list[dict[str, Any]], query: str, message: str) -> None:
    answer = server.predict("wine", wine[:1], query=query)
    assert (answer.status, answer.error["code"]) == (422, "wrong_parameter")
    assert message in answer.error["message"]


def test_options_are_read_and_others_ignored(server: LiveServer, wine: list[dict[str, Any]]) -> None:
    answer = server.predict("wine", wine[:1], query="?top=1&strict=true&partial=1&other=x&explain=").json()
    assert len(answer["predictions"][0]["targets"]["cultivar"]["probabilities"]) == 1
    described = server.ask("GET", "/openapi.json").json()["paths"]["/v1/programs/{name}/predict"]["post"]
    assert [each["name"] for each in described["parameters"]] == ["name", "explain", "partial", "strict", "top"]


def test_bits_are_answered_at_each_position(server: LiveServer) -> None:
    card = server.ask("GET", "/v1/programs/bits").json()
    (row,) = server.predict("bits", [card["example"]]).json()["predictions"]
    assert len(row["positions"]) == card["inputs"]["least"]
    assert all(position["class"] in (0, 1) for position in row["positions"])


def test_answers_never_hold_numbers_that_json_lacks() -> None:
    value = {"a": [float("nan"), 1.5, {"b": float("inf")}], "ü\ud800": None}
    text = to_json(value)
    assert text == b'{"a":[null,1.5,{"b":null}],"\\u00fc\\ud800":null}'
    assert json.loads(text)


def test_files_of_unknown_type_are_known_by_their_start(server: LiveServer, samples: Samples) -> None:
    for name in ("digits", "proteins", "waves"):
        raw, _ = read_file(samples.data[name])
        assert server.predict(name, raw, "application/octet-stream").status == 200
    assert server.predict("wine", b"a,b\n1,2\n", "application/octet-stream").status == 415


def test_large_requests_share_a_budget_of_memory() -> None:
    budget = ByteBudget(10)
    with budget.share() as first, budget.share() as second:
        first(6)
        second(4)
        with pytest.raises(RequestError, match="already reading as much data as it allows at once") as refused:
            second(1)
        assert refused.value.status == 429
    assert budget.used == 0


def test_a_request_that_does_not_arrive_is_given_up(samples: Samples) -> None:
    with running([samples.program("wine")], read_seconds=0.3) as live:
        with socket.create_connection(("127.0.0.1", live.port), 10) as caller:
            head = b"POST /v1/programs/wine/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            caller.sendall(head + b"Content-Length: 100\r\n\r\n{")
            assert caller.recv(100).startswith(b"HTTP/1.1 408 ")
        compressed = live.ask("POST", "/v1/programs/wine/predict", b"x", **{"Content-Encoding": "gzip"})
        assert (compressed.status, compressed.error["code"]) == (415, "unsupported_encoding")


def test_rows_of_a_file_have_their_numbers_in_it_although_one_is_skipped(server: LiveServer, samples: Samples) -> None:
    header, *lines = samples.data["wine"].read_text().splitlines()[:5]
    table = "\n".join([header, lines[0], lines[1] + ",1,2,3", *lines[2:]]).encode()
    answer = server.predict("wine", table, "text/csv")
    assert [prediction["row"] for prediction in answer.json()["predictions"]] == [0, 2, 3]
