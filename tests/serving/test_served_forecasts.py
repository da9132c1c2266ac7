"""Served forecasts are those of `icecore predict` on the same series, as a file and as rows of JSON."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icecore
from commandline import Run
from icecore.core.errors import DataError
from icecore.serving.client import Client, ServerError
from icecore.user_data import DataSettings
from live_server import LiveServer, running

#: columns of numbers of a forecast, beside its target
RANGE = ("low (10%)", "high (90%)")


def write_sales(path: Path, shops: tuple[str, ...], months: int = 60, ahead: int = 0) -> Path:
    """Monthly series with a season and a trend; `ahead` rows know the price only."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["month", "shop", "price", "sales"])
        for number, shop in enumerate(shops):
            for t in range(months + ahead):
                sales = 100 * (number + 1) + t + 20 * np.sin(2 * np.pi * t / 12) + rng.normal()
                month = f"{2010 + t // 12}-{t % 12 + 1:02}-01"
                writer.writerow([month, shop, round(rng.normal(), 3), round(sales, 3) if t < months else ""])
    return path


def series_of(path: Path) -> list[dict[str, Any]]:
    """The series of a table as rows of JSON."""
    rows: dict[str, dict[str, Any]] = {}
    with path.open() as file:
        for cells in csv.DictReader(file):
            row = rows.setdefault(cells["shop"], {"shop": cells["shop"], "month": [], "price": [], "sales": []})
            row["month"].append(cells["month"])
            for name in ("price", "sales"):
                row[name].append(float(cells[name]) if cells[name] else None)
    return list(rows.values())


class Forecasts:
    """Programs that forecast, their data, and a server of them."""

    def __init__(self, folder: Path, body: str) -> None:
        few: dict[str, Any] = {"backbone": body, "lrs": (1e-2,), "steps": 6, "batch_size": 8, "layers": 1}
        self.folder = folder
        self.data = {
            "shops": write_sales(folder / "shops.csv", ("b", "a", "7")),
            "known": write_sales(folder / "known.csv", ("a", "b"), ahead=3),
        }
        values = np.genfromtxt(self.data["shops"], delimiter=",", skip_header=1)[:60, 3]
        self.data["single"] = folder / "single.csv"
        self.data["single"].write_text("\n".join(["value", *map(str, values)]))
        for name, path in self.data.items():
            known = ("price",) if name == "known" else ()
            settings = DataSettings(task="forecast", horizon=3, length=12, known=known)
            icecore.fit(str(path), out=self.program(name), data_settings=settings, device="cpu", **few)

    def program(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def forecasts(tmp_path_factory: pytest.TempPathFactory, bodies: Mapping[str, str]) -> Forecasts:
    return Forecasts(tmp_path_factory.mktemp("forecasts"), bodies["bert"])


@pytest.fixture(scope="module")
def live(forecasts: Forecasts) -> Iterator[LiveServer]:
    with running([forecasts.folder]) as server:
        yield server


def assert_same(answered: Any, expected: Any, target: str) -> None:
    assert list(answered.columns) == list(expected.columns) == ["time", target, *RANGE]
    assert list(answered.names) == list(expected.names)
    assert answered.columns["time"].tolist() == expected.columns["time"].tolist()
    for column in (target, *RANGE):
        np.testing.assert_allclose(answered.columns[column], expected.columns[column], rtol=1e-4)


@pytest.mark.parametrize(("name", "target"), [("shops", "sales"), ("known", "sales"), ("single", "value")])
def test_a_file_gets_the_forecasts_of_predict(live: LiveServer, forecasts: Forecasts, name: str, target: str) -> None:
    expected = icecore.predict(forecasts.program(name), str(forecasts.data[name]), device="cpu")
    assert len(expected) >= 3
    answered = Client(live.url).predict(name, forecasts.data[name])
    assert_same(answered, expected, target)
    assert answered.notes == list(expected.notes)


@pytest.mark.parametrize("name", ["shops", "known"])
def test_series_of_json_get_the_forecasts_of_predict(live: LiveServer, forecasts: Forecasts, name: str) -> None:
    expected = icecore.predict(forecasts.program(name), str(forecasts.data[name]), device="cpu")
    rows = series_of(forecasts.data[name])
    answered = Client(live.url).predict(name, rows)
    assert_same(answered, expected, "sales")
    assert answered.notes == list(expected.notes)
    raw = Client(live.url).ask(name, rows)
    shop = {place: row["shop"] for place, row in enumerate(rows)}
    assert [shop[entry["row"]] for entry in raw["predictions"]] == [entry["name"] for entry in raw["predictions"]]


def test_a_list_of_numbers_is_a_series_without_times(live: LiveServer, forecasts: Forecasts) -> None:
    expected = icecore.predict(forecasts.program("single"), str(forecasts.data["single"]), device="cpu")
    values = [float(line) for line in forecasts.data["single"].read_text().split()[1:]]
    for row in (values, {"value": values}):
        assert_same(Client(live.url).predict("single", [row]), expected, "value")
    both = Client(live.url).predict("single", [values, values[:30]])
    assert both.names == ["series 0"] * 3 + ["series 1"] * 3


def test_the_command_prints_the_same_with_a_url(live: LiveServer, forecasts: Forecasts, run: Run) -> None:
    local = run("predict", forecasts.program("shops"), forecasts.data["shops"], "--device", "cpu")
    remote = run("predict", "--url", live.url, forecasts.program("shops"), forecasts.data["shops"])
    ours, theirs = ([line.split(",") for line in ended.out.splitlines()] for ended in (local, remote))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    numbers = [np.array([row[2:] for row in table[1:]], float) for table in (ours, theirs)]
    np.testing.assert_allclose(*numbers, rtol=1e-4)


def test_the_example_of_a_card_is_forecast(live: LiveServer) -> None:
    for card in live.ask("GET", "/v1/programs").json()["programs"]:
        assert card["form"] == "forecast"
        answer = live.predict(card["name"], {"rows": [card["example"]]}).json()
        assert len(answer["predictions"]) == card["targets"][0]["horizon"] == 3
    assert live.ask("GET", "/openapi.json").status == 200


@pytest.mark.parametrize(
    ("change", "column", "message"),
    [
        ({"sales": "much"}, "sales", "it must be a list of its values in order of time, but is 'much'."),
        ({"sales": [1.0, "much"]}, "sales", "it must hold a number, but has 'much'."),
        ({"month": ["2010-01-01"]}, None, "must be lists of one length, with null for what is not known."),
        ({"month": ["yesterday"] * 60}, "month", "it must hold a date such as 2026-01-31"),
        ({"shop": [1]}, "shop", "it must be the name of the series"),
        ({"shop": "b"}, None, "a row before it is of the series 'b' too."),
    ],
)
def test_a_wrong_series_is_named_with_its_column(
    live: LiveServer, forecasts: Forecasts, change: dict[str, Any], column: str | None, message: str
) -> None:
    rows = series_of(forecasts.data["shops"])
    answer = live.predict("shops", [rows[0], rows[1] | change, rows[2]])
    assert answer.status == 422
    (problem,) = answer.error["rows"]
    assert (problem["row"], problem["column"]) == (1, column)
    assert message in problem["message"]
    partial = live.predict("shops", [rows[0], rows[1] | change, rows[2]], query="?partial=true").json()["predictions"]
    assert [entry["row"] for entry in partial] == [0, 0, 0, 1, 2, 2, 2]


def test_mistakes_with_series_have_messages(live: LiveServer, forecasts: Forecasts) -> None:
    short = live.predict("single", [[1.0, 2.0, 3.0]])
    assert (short.status, short.error["message"]) == (
        422,
        "Series 'value' has 3 points, but 12 are needed to see what comes next.",
    )
    missing = live.predict("shops", [{"shop": "a", "month": [], "price": []}]).error["rows"][0]
    assert (missing["column"], missing["message"]) == ("sales", "it is missing. Give its values in order of time.")
    with pytest.raises(ServerError, match="A table is sent as a file"):
        Client(live.url).predict("shops", [3, 4])
    explained = live.predict("single", [[1.0] * 20], query="?explain=attention")
    assert explained.error["message"] == "explain=attention: single forecasts series, which is not explained."
    assert live.predict("shops", b"x", "application/x-npz").status == 415


def test_series_that_lack_what_must_be_known_are_not_forecast(live: LiveServer, forecasts: Forecasts) -> None:
    rows = [
        {name: value if isinstance(value, str) else value[:60] for name, value in row.items()}
        for row in series_of(forecasts.data["known"])
    ]
    answered = Client(live.url).predict("known", rows)
    assert len(answered) == 0
    assert "not forecast, which takes 3 rows with price more" in dict(answered.notes)["next"]


def test_an_estimator_does_not_take_a_program_that_forecasts(forecasts: Forecasts) -> None:
    with pytest.raises(DataError, match=r"forecasts series, which FPTRegressor cannot do. Use `icecore predict`"):
        icecore.FPTRegressor.load(forecasts.program("shops"), device="cpu")
