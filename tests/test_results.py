"""Results files: a record there and back, appended whatever came before, read whatever is broken."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icecore import grid, results
from icecore.checkpoint import RunFolder
from icecore.config import RunConfig
from icecore.errors import ConfigError, DataError
from icecore.results import Record, Spot

SPOT = Spot("table2", "pretrained", "mnist", "cpu", "minilm")


def record(run_id: str = "a", spot: Spot = SPOT, **summary: Any) -> Record:
    held = {"task": "mnist", "lr": 1e-3, "seed": 0, "test_metric": 0.5, "run_id": run_id, **summary}
    curve = ((1, 0.25), (2, 0.5))
    return Record(spot, "icecore paper", "2026-01-01", held, {"steps": 2}, curve, curve, {"attention": {"best": 0.1}})


MISSING = Record(SPOT, "icecore paper", "2026-01-01", missing="get the weights")


@pytest.mark.parametrize("case", [record(), MISSING])
def test_there_and_back(case: Record) -> None:
    text = case.to_json()
    assert "\n" not in text
    assert Record.from_json(text) == case


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a record"),
        ("[]", "not a record"),
        ('"text"', "not a record"),
        ("null", "not a record"),
        ('{"task": "mnist"}', "no run_id"),
        ('{"run_id": "a", "validation": [[1]]}', "not a record"),
        ('{"run_id": "a", "validation": 3}', "not a record"),
    ],
)
def test_what_is_no_record(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Record.from_json(text)


def test_a_finished_run_as_a_record(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config()
    (summary,) = grid.train([chosen], grid.Place(tmp_path, device="cpu"))
    made = results.record_of(RunFolder(tmp_path, chosen), SPOT, "the command")
    assert made.summary == summary
    assert RunConfig.from_json(json.dumps(made.config)) == chosen
    assert [step for step, _ in made.validation] == [4, 8, 12]
    assert max(metric for _, metric in made.validation) == pytest.approx(summary["val_metric"])
    assert made.training[-1][0] == 12
    with pytest.raises(ConfigError, match="not finished"):
        results.record_of(RunFolder(tmp_path, config(seed=9)), SPOT, "")


def test_later_lines_replace_earlier_ones_and_fill_what_was_missing(tmp_path: Path) -> None:
    file = tmp_path / "table2.jsonl"
    results.append(file, [MISSING])
    assert results.read(file)[0] == [MISSING]
    elsewhere = record(spot=replace(SPOT, study="table9"))
    results.append(file, [record(), elsewhere])
    results.append(file, [record(test_metric=0.75)])
    found, faults = results.read(file)
    assert found == [elsewhere, record(test_metric=0.75)]
    assert not faults


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_half_written_last_line_costs_that_line_only(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "table2.jsonl"
    results.append(file, [record("a"), record("b")])
    file.write_bytes(file.read_bytes()[:-cut])
    found, faults = results.read(file)
    # without its line break alone, the record is still whole
    assert [r.run_id for r in found] == (["a", "b"] if cut == 1 else ["a"])
    assert len(faults) == (cut > 1)
    results.append(file, [record("c")])
    again, faults = results.read(tmp_path)
    assert [r.run_id for r in again] == [r.run_id for r in found] + ["c"]
    assert all(fault.startswith("table2.jsonl, line 2: left out") for fault in faults)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    results.append(file, [record()])
    file.write_bytes(b"\xff\xfe\n" + file.read_bytes())
    found, faults = results.read(file)
    assert found == [record()]
    assert "line 1: left out" in faults[0]


def test_a_folder_of_runs_is_a_study_of_its_name(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    summaries = grid.train(grid.expand(config(), [1e-2, 3e-2]), grid.Place(out, device="cpu"))
    found, faults = results.read(out)
    assert {r.run_id for r in found} == {s["run_id"] for s in summaries}
    assert {r.spot.study for r in found} == {"mine"}
    assert {r.spot.column for r in found} == {"bit-xor"}
    assert not faults
    (out / found[0].run_id / "summary.json").write_text("{")
    found, faults = results.read(out)
    assert len(found) == 1
    assert "damaged" in faults[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        ({}, "no results here; `icecore paper`"),
        ({"a.jsonl": "{"}, r"no results here \(a.jsonl, line 1"),
    ],
)
def test_nothing_to_read(tmp_path: Path, content: Mapping[str, str] | None, message: str) -> None:
    place = tmp_path / "results"
    if content is not None:
        place.mkdir()
        for name, text in content.items():
            (place / name).write_text(text)
    with pytest.raises(DataError, match=message):
        results.read(place)
