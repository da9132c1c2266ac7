"""Results files: records survive writing and reading, appending is safe, and broken lines cost only themselves."""

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
from icecore.experiments import sweep
from icecore.experiments.results import CellKey, RunRecord, append_records, read_records
from icecore.experiments.run_list import list_runs
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import BEHIND, COMPLETED, RunSummary

KEY = CellKey("table2", "pretrained", "mnist", "cpu", "minilm")


def record(run_id: str = "a", key: CellKey = KEY, **summary: Any) -> RunRecord:
    values = {"task": "mnist", "lr": 1e-3, "seed": 0, "test_metric": 0.5, "run_id": run_id, **summary}
    curve = ((1, 0.25), (2, 0.5))
    run = RunSummary.from_json(values)
    return RunRecord(key, "icecore paper", "2026-01-01", run, {"steps": 2}, curve, curve, {"attention": {"best": 0.1}})


MISSING = RunRecord(KEY, "icecore paper", "2026-01-01", missing="get the weights")


@pytest.mark.parametrize("case", [record(), MISSING])
def test_a_record_survives_writing_and_reading(case: RunRecord) -> None:
    text = case.to_json()
    assert "\n" not in text
    assert RunRecord.from_json(text) == case


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not the record of a run"),
        ("[]", "not the record of a run"),
        ('"text"', "not the record of a run"),
        ("null", "not the record of a run"),
        ('{"task": "mnist"}', "has no run_id"),
        ('{"run_id": "a", "validation": [[1]]}', "not the record of a run"),
        ('{"run_id": "a", "validation": 3}', "not the record of a run"),
    ],
)
def test_text_that_is_not_a_record_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RunRecord.from_json(text)


def test_a_finished_run_becomes_a_record(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config()
    (summary,) = sweep.train_runs([chosen], ExecutionContext(tmp_path, device="cpu"))
    record = RunRecord.from_folder(RunFolder(tmp_path, chosen), KEY, "the command")
    assert record.summary == summary
    assert RunConfig.from_json(json.dumps(record.config)) == chosen
    assert [step for step, _ in record.validation] == [4, 8, 12]
    assert max(metric for _, metric in record.validation) == pytest.approx(summary.val_metric)
    assert record.training[-1][0] == 12
    with pytest.raises(ConfigError, match="not finished"):
        RunRecord.from_folder(RunFolder(tmp_path, config(seed=9)), KEY, "")


def test_a_run_folder_may_be_renamed(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config()
    sweep.run_sweep([chosen], ExecutionContext(tmp_path))
    renamed = (tmp_path / chosen.run_id).rename(tmp_path / "best")
    assert [listed.status for listed in list_runs(tmp_path)] == ["completed"]
    assert [record.run_id for record in read_records(tmp_path)[0]] == [chosen.run_id]
    monkeypatch.chdir(renamed)
    assert [listed.status for listed in list_runs(Path())] == ["completed"]
    assert sweep.open_run(Path())[0].spec == sweep.load_task(chosen, None).spec


def test_later_lines_replace_earlier_ones_and_missing_cells(tmp_path: Path) -> None:
    file = tmp_path / "table2.jsonl"
    append_records(file, [MISSING])
    assert read_records(file)[0] == [MISSING]
    elsewhere = record(key=replace(KEY, study="table9"))
    append_records(file, [record(), elsewhere])
    append_records(file, [record(test_metric=0.75)])
    found, faults = read_records(file)
    assert found == [elsewhere, record(test_metric=0.75)]
    assert not faults


def test_a_run_that_fell_behind_in_a_race_does_not_replace_itself_trained_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "table2.jsonl"
    behind, finished = record(status=BEHIND, test_metric=None), record(status=COMPLETED)
    append_records(file, [behind, finished])
    assert read_records(file)[0] == [finished]
    append_records(file, [behind])
    assert read_records(file)[0] == [finished]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_an_incomplete_last_line_is_skipped_and_terminated(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "table2.jsonl"
    append_records(file, [record("a"), record("b")])
    file.write_bytes(file.read_bytes()[:-cut])
    found, faults = read_records(file)
    # if only the line break is missing, the record is still complete
    assert [r.run_id for r in found] == (["a", "b"] if cut == 1 else ["a"])
    assert len(faults) == (cut > 1)
    append_records(file, [record("c")])
    again, faults = read_records(tmp_path)
    assert [r.run_id for r in again] == [r.run_id for r in found] + ["c"]
    assert all(fault.startswith("table2.jsonl, line 2 was skipped") for fault in faults)


def test_a_line_that_is_not_text_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    append_records(file, [record()])
    file.write_bytes(b"\xff\xfe\n" + file.read_bytes())
    found, faults = read_records(file)
    assert found == [record()]
    assert "line 1 was skipped" in faults[0]


@pytest.mark.parametrize("place", ["train_metric", "val_metric", "test_metric", "test_metrics", "validation"])
@pytest.mark.parametrize("value", [1.7, -0.1])
def test_an_accuracy_that_is_no_share_is_refused(place: str, value: float) -> None:
    values = json.loads(record().to_json()) | {"metric_name": "bit accuracy"}
    assert RunRecord.from_json(json.dumps(values)).run_id
    values[place] = {"test": value} if place == "test_metrics" else [[1, value]] if place == "validation" else value
    with pytest.raises(DataError, match=f"an accuracy of {value:g}, but accuracies are shares from 0 to 1"):
        RunRecord.from_json(json.dumps(values))
    assert RunRecord.from_json(json.dumps(values | {"metric_name": "r2"})).run_id


def test_a_folder_of_runs_counts_as_a_study_of_its_name(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    summaries = sweep.train_runs(sweep.expand_sweep(config(), [1e-2, 3e-2]), ExecutionContext(out, device="cpu"))
    found, faults = read_records(out)
    assert {r.run_id for r in found} == {s.run_id for s in summaries}
    assert {r.key.study for r in found} == {"mine"}
    assert {r.key.column for r in found} == {"bit-xor"}
    assert not faults
    (out / found[0].run_id / "summary.json").write_text("{")
    found, faults = read_records(out)
    assert len(found) == 1
    assert "damaged" in faults[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "results does not exist"),
        ({}, "has no results. The commands `icecore paper`"),
        ({"a.jsonl": "{"}, r"has no results \(a.jsonl, line 1 was skipped"),
    ],
)
def test_a_folder_without_results_is_an_error(tmp_path: Path, content: Mapping[str, str] | None, message: str) -> None:
    folder = tmp_path / "results"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_records(folder)


def write_on(file: Path, name: str) -> None:
    """Append records of 2 kB to 50 kB until killed, and write the id of each to a file of its own afterwards."""
    draw = random.Random(name)
    ids = os.open(file.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(10**6):
        run_id = f"{name}-{number}"
        append_records(file, [record(run_id, filler=run_id * (draw.randrange(2_000, 50_000) // len(run_id)))])
        os.write(ids, f"{run_id}\n".encode())
        time.sleep(draw.uniform(0, 0.02))


@pytest.mark.slow
def test_eight_writers_killed_at_random_lose_no_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "icecore.experiments.sweep", "icecore.experiments.results"])
    file, kills, draw = tmp_path / "table2.jsonl", 0, random.Random(0)

    def started(writer: int) -> Any:
        process = context.Process(target=write_on, args=(file, f"{writer}.{kills}"), daemon=True)
        process.start()
        return process

    writers = [started(writer) for writer in range(8)]
    while len(list(tmp_path.glob("*.?.*"))) < 8:  # until all have started
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
    append_records(file, [record("last")])

    found, faults = read_records(file)
    acknowledged = [line for path in tmp_path.glob("*.?.*") for line in path.read_text().splitlines()]
    written = Counter(r.run_id for r in map(parsed, file.read_bytes().splitlines()) if r is not None)
    assert len(acknowledged) > 40
    assert written.keys() >= {*acknowledged, "last"}
    assert set(written.values()) == {1}
    assert all(set(r.summary.other["filler"].split(r.run_id)) == {""} for r in found if r.run_id != "last")
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
        append_records(file, [record()])


def test_a_write_that_the_system_splits_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.FileIO):
        def write(self, b: Any, /) -> int:
            return super().write(bytes(b[:100]))

    file = tmp_path / "x.jsonl"
    append_records(file, [record("a")])
    monkeypatch.setattr(Path, "open", lambda self, mode, buffering=-1: Slow(self, mode.replace("b", "")))
    append_records(file, [record("b")])
    monkeypatch.undo()
    assert [r.run_id for r in read_records(file)[0]] == ["a", "b"]
