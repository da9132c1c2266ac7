"""Results files: a record there and back, appended whatever came before, read whatever is broken."""

import io
import json
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError, StorageError
from icecore.experiments import results, sweep
from icecore.experiments.results import CellKey, RunRecord
from icecore.training.checkpoint import RunFolder

SPOT = CellKey("table2", "pretrained", "mnist", "cpu", "minilm")


def record(run_id: str = "a", spot: CellKey = SPOT, **summary: Any) -> RunRecord:
    held = {"task": "mnist", "lr": 1e-3, "seed": 0, "test_metric": 0.5, "run_id": run_id, **summary}
    curve = ((1, 0.25), (2, 0.5))
    return RunRecord(
        spot, "icecore paper", "2026-01-01", held, {"steps": 2}, curve, curve, {"attention": {"best": 0.1}}
    )


MISSING = RunRecord(SPOT, "icecore paper", "2026-01-01", missing="get the weights")


@pytest.mark.parametrize("case", [record(), MISSING])
def test_there_and_back(case: RunRecord) -> None:
    text = case.to_json()
    assert "\n" not in text
    assert RunRecord.from_json(text) == case


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
        RunRecord.from_json(text)


def test_a_finished_run_as_a_record(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config()
    (summary,) = sweep.train_runs([chosen], sweep.Place(tmp_path, device="cpu"))
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
    summaries = sweep.train_runs(sweep.expand_sweep(config(), [1e-2, 3e-2]), sweep.Place(out, device="cpu"))
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


def write_on(file: Path, name: str) -> None:
    """Append records of 2 kB to 50 kB for ever, and note the id of each once `append` has returned."""
    draw = random.Random(name)
    noted = os.open(file.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(10**6):
        run_id = f"{name}-{number}"
        results.append(file, [record(run_id, filler=run_id * (draw.randrange(2_000, 50_000) // len(run_id)))])
        os.write(noted, f"{run_id}\n".encode())
        time.sleep(draw.uniform(0, 0.02))


@pytest.mark.slow
def test_eight_writers_killed_at_random_lose_and_tear_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "icecore.experiments.sweep", "icecore.experiments.results"])
    file, kills, draw = tmp_path / "table2.jsonl", 0, random.Random(0)

    def started(writer: int) -> Any:
        process = context.Process(target=write_on, args=(file, f"{writer}.{kills}"), daemon=True)
        process.start()
        return process

    writers = [started(writer) for writer in range(8)]
    while len(list(tmp_path.glob("*.?.*"))) < 8:  # until all are at work
        time.sleep(0.01)
    while kills < 32:
        time.sleep(draw.uniform(0, 0.1))
        writer = draw.randrange(8)
        writers[writer].kill()
        writers[writer].join()
        kills += 1
        writers[writer] = started(writer)
    for process in writers:
        process.kill()
        process.join()
        kills += 1
    results.append(file, [record("last")])

    found, faults = results.read(file)
    acknowledged = [line for path in tmp_path.glob("*.?.*") for line in path.read_text().splitlines()]
    written = Counter(r.run_id for r in map(parsed, file.read_bytes().splitlines()) if r is not None)
    assert len(acknowledged) > 40
    assert written.keys() >= {*acknowledged, "last"}
    assert set(written.values()) == {1}
    assert all(set(r.summary["filler"].split(r.run_id)) == {""} for r in found if r.run_id != "last")
    assert len(faults) <= kills


def parsed(line: bytes) -> RunRecord | None:
    try:
        return RunRecord.from_json(line.decode())
    except DataError:
        return None


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    file = tmp_path / "full.jsonl"
    file.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"full.jsonl: cannot be written \(No space left"):
        results.append(file, [record()])


def test_a_write_that_the_system_takes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.FileIO):
        def write(self, b: Any, /) -> int:
            return super().write(bytes(b[:100]))

    file = tmp_path / "x.jsonl"
    results.append(file, [record("a")])
    monkeypatch.setattr(Path, "open", lambda self, mode, buffering=-1: Slow(self, mode.replace("b", "")))
    results.append(file, [record("b")])
    monkeypatch.undo()
    assert [r.run_id for r in results.read(file)[0]] == ["a", "b"]
