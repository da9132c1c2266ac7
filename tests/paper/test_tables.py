"""The paper's tables: complete, with the published numbers at their places, planned as they say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from icecore.backbones import BACKBONES
from icecore.core.config import FPT_ROLES, ROLES, RunConfig
from icecore.core.errors import ConfigError
from icecore.experiments import study, sweep
from icecore.paper import tables as paper
from icecore.paper.budgets import BUDGETS
from icecore.paper.tables import STUDIES, TableRequest, plan
from icecore.tasks import TASKS

OUT = Path("results")
ASKED = (1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21, 16, 17)


def configs(name: str, **request: Any) -> dict[tuple[str, str], RunConfig]:
    cells = plan(name, TableRequest(**{"budget": "cpu", "precision": "fp32", "device": "cpu", **request}), OUT)
    return {(cell.spot.row, cell.spot.column): cell.sweep.config for cell in cells}


def test_every_table_is_there() -> None:
    assert set(STUDIES) == {*(f"table{n}" for n in ASKED), "attention", "rebuttal"}
    assert all(study.name == name and study.shows and study.title for name, study in STUDIES.items())


@pytest.mark.parametrize("name", STUDIES)
def test_published_numbers_have_their_row_and_column(name: str) -> None:
    study = STUDIES[name]
    columns = {"train", "test"} if study.measure == "fit" else set(study.columns)
    for row, numbers in study.published.items():
        assert row in study.rows
        assert set(numbers) <= columns
    assert bool(study.published) == bool(study.source)


@pytest.mark.parametrize(
    ("name", "row", "column", "number"),
    [
        ("table2", "random", "cifar10", 61.7),
        ("table2", "vision", "cifar10-lra", 43.0),
        ("table3", "lstm", "cifar10", 34.4),
        ("table6", "random", "bit-xor", 2e4),
        ("table7", "full-3-layers", "train", 70),
        ("table8", "large-pretrained", "cifar10", 72.1),
        ("table9", "statistics", "remote-homology", 11.0),
        ("table12", "layers-2-random", "listops", 16),
        ("table15", "norms", "cifar10", 54),
        ("table21", "output", "mnist", 25),
        ("table17", "longformer-base", "listops", 17.0),
        ("rebuttal", "unfrozen-pretrained", "cifar10-lra", [67.8, 0.3]),
    ],
)
def test_some_published_numbers(name: str, row: str, column: str, number: object) -> None:
    assert STUDIES[name].published[row][column] == number


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("protocol", ["fair", "paper"])
def test_every_table_can_be_planned(name: str, budget: str, protocol: str) -> None:
    cells = plan(name, TableRequest(budget, protocol, precision="fp32", device="cpu"), OUT)
    assert cells
    for cell in cells:
        config, settings = cell.sweep.config, BUDGETS[budget]
        assert config.protocol == protocol
        assert cell.spot.study == name
        assert config.task == cell.spot.column.split()[0]
        assert config.backbone.partition(":")[0] in BACKBONES
        assert "{" not in config.backbone
        seeds = STUDIES[name].seeds or settings.seeds
        if cell.pretraining is None:
            assert list(cell.sweep.seeds) == list(seeds)
        else:
            # a body taught with a seed knows its draws: an input layer of the same seed would fit it from the start
            assert cell.pretraining.seed not in cell.sweep.seeds
            assert len(cell.sweep.seeds) == len(seeds)
        if protocol == "paper":
            assert len(cell.sweep.lrs) == 1
        elif not STUDIES[name].lrs:
            trained = {"attention", "feedforward", "other"} & set(config.train_roles)
            assert list(cell.sweep.lrs) == list(settings.trained_lrs if trained else settings.lrs)
    # neighbours share their data, so that it is read once
    columns = [cell.spot.column for cell in cells]
    assert columns == sorted(columns, key=columns.index)


def test_rows_are_what_they_say() -> None:
    table = configs("table2")
    assert {row for row, _ in table} == {"pretrained", "random", "bit-memory", "statistics", "none", "lstm-matched"}
    assert {column for _, column in table} == set(TASKS)
    assert table["statistics", "mnist"].weights == "statistics"
    assert table["lstm-matched", "mnist"].backbone == "lstm-matched:minilm"
    sets = configs("table15")
    assert sets["output", "mnist"].train_roles == ("output",)
    assert sets["positions", "mnist"] == table["pretrained", "mnist"]
    assert configs("table1")["full", "mnist"].train_roles == tuple(sorted(ROLES))
    assert configs("table12")["layers-2-random", "listops"].layers == 2
    assert configs("table12")["layers-2-random", "listops"].train_roles == ("norm", "output")
    assert configs("rebuttal")["frozen-pretrained", "mnist"].train_roles == tuple(sorted(FPT_ROLES))
    assert configs("attention")["pretrained", "bit-xor n=64"].task_options == {"n": 64}
    # a budget without a body of this size leaves the row out
    assert ("large-random", "cifar10") not in configs("table8")
    assert configs("table8", budget="full")["large-random", "cifar10"].backbone == "gpt2-large"


def test_the_full_budget_is_the_papers() -> None:
    config = configs("table2", budget="full", protocol="paper")["pretrained", "mnist"]
    assert (config.backbone, config.steps, config.lr) == ("gpt2", 5000, 1e-3)
    assert config.test_examples is None
    assert config.faults


def test_a_selection(bodies: Mapping[str, str]) -> None:
    request = TableRequest("smoke", only=("mnist", "bit-xor"), rows=("random",), body=bodies["bert"])
    cells = plan("table2", request, OUT)
    assert {cell.spot.column for cell in cells} == {"mnist", "bit-xor"}
    assert {cell.sweep.config.backbone for cell in cells} == {bodies["bert"]}
    assert {cell.spot.body for cell in cells} == {bodies["bert"]}
    command = f"icecore paper table2 --budget smoke --only bit-xor --rows random --body {bodies['bert']}"
    assert command in [cell.command for cell in cells]
    assert [cell.spot.column for cell in plan("attention", TableRequest(only=("bit-xor n=20",)), OUT)] == [
        "bit-xor n=20"
    ] * 2


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"budget": "cpus"}, "unknown budget 'cpus'; did you mean 'cpu'"),
        ({"protocol": "unfair"}, "unknown protocol 'unfair'"),
        ({"only": ("mnits",)}, "unknown task 'mnits'; did you mean 'mnist'"),
        ({"rows": ("radnom",)}, "unknown row of table2 'radnom'; did you mean 'random'"),
    ],
)
def test_mistakes(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan("table2", TableRequest(**request_), OUT)


def test_an_unknown_table() -> None:
    with pytest.raises(ConfigError, match="unknown table 'tabel2'; did you mean 'table2'"):
        paper.names(["table2", "tabel2"])
    assert paper.names(["table3", "table2", "table3"]) == ["table3", "table2"]
    assert paper.names(["all"]) == list(STUDIES)


def test_the_bit_memory_row_end_to_end(
    bodies: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = TableRequest("smoke", only=("bit-xor",), rows=("bit-memory", "random"), body=bodies["bert"], device="cpu")
    cells = plan("table2", request, tmp_path)
    records = study.run_study(cells, tmp_path / "table2.jsonl", sweep.Place(tmp_path / "runs", device="cpu"), print)
    assert {record.spot.row for record in records} == {"bit-memory", "random"}
    assert not any(record.missing for record in records)
    weights = {record.summary["weights"] for record in records if record.spot.row == "bit-memory"}
    assert all(Path(path).is_file() for path in weights)
    assert weights == {cell.sweep.config.weights for cell in cells if cell.spot.row == "bit-memory"}
