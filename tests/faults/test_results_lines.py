"""Results files and run folders with odd lines: each bad line is reported, and the rest is used."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import cases, changed, damaged
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from commandline import Run
from icecore.core.config import RunConfig
from icecore.core.errors import StorageError, UserError
from icecore.experiments import sweep
from icecore.experiments.results import CellKey, RunRecord, append_records, read_records
from icecore.report.result_tables import build_tables
from icecore.training import loop
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from interruption import Killed, interrupt


@pytest.fixture
def results(config: Callable[..., RunConfig], tmp_path: Path) -> Path:
    """A folder with a results file of two good lines, and the run folders beside it."""
    configs = sweep.expand_sweep(config(), [1e-2, 3e-2])
    sweep.train_runs(configs, ExecutionContext(tmp_path / "runs", device="cpu"))
    key = CellKey("mine", "a row", "bit-xor", "smoke", "bert")
    records = [RunRecord.from_folder(RunFolder(tmp_path / "runs", each), key, "icecore") for each in configs]
    append_records(tmp_path / "mine.jsonl", records)
    return tmp_path


def test_a_bad_line_costs_one_line(results: Path) -> None:
    file = results / "mine.jsonl"
    good = file.read_bytes()
    first, source = json.loads(good.splitlines()[0]), random.Random(3)
    lines = [json.dumps(changed(first, source)).encode() for _ in range(cases(150))]
    lines += [damaged(good.splitlines()[0], source) for _ in range(cases(50))]
    lines += [b"[" * 100_000, b'{"a":' * 100_000, b'{"run_id": 1e999}', b'{"run_id": ["a"]}', b"1" * 5000]
    lines = [line.replace(b"\n", b" ") for line in lines]
    file.write_bytes(b"\n".join([*lines, b""]) + good)
    records, faults = read_records(results)
    kept = {json.loads(line)["run_id"] for line in good.splitlines()}
    assert kept <= {record.run_id for record in records if record.key.study == "mine"}
    assert len(faults) > len(lines) / 3
    for record in records:
        build_tables([record])
        record.to_json()
    build_tables(records)


def test_report_and_grid_survive_a_bad_neighbour(results: Path, run: Run) -> None:
    (results / "theirs.jsonl").write_text('{"run_id": ["a"]}\n{"run_id": "b", "lr": 1e999}\n' + "[" * 5000 + "\n")
    ended = run("report", results, "--out", results / "report")
    assert ended.code == 0
    assert "theirs.jsonl, line 2 was skipped: not the record of a run (lr: expected a finite number" in ended.err
    (results / "mine.toml").write_text('task = "bit-xor"\nbackbone = "none"\nweights = "random"\nsteps = 2\n')
    ended = run("grid", results / "mine.toml", "--out", results, "--dry-run")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl", "config.json"])
def test_a_tampered_run_folder_is_a_message(results: Path, name: str, config: Callable[..., RunConfig]) -> None:
    file = results / "runs" / config().run_id / name
    good, source = file.read_bytes(), random.Random(7)
    for case in range(cases(60)):
        if name == "events.jsonl":
            lines = good.splitlines()
            place = source.randrange(len(lines))
            lines[place] = json.dumps(changed(json.loads(lines[place]), source)).encode()
            bad = b"\n".join(lines) if case % 2 else damaged(good, source)
        else:
            bad = json.dumps(changed(json.loads(good), source)).encode() if case % 2 else damaged(good, source)
        file.write_bytes(bad)
        records, _ = read_records(results / "runs")
        assert records, case
        folder = RunFolder(results / "runs", config())
        try:
            folder.open()
            folder.summary()
            folder.pack()
            folder.check_origin({"body": "x"})
        except UserError:
            continue


@pytest.mark.parametrize("change", ["shape", "missing", "counter", "no counters"])
def test_a_state_that_is_not_of_this_run_is_a_message(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    own, context = config(), ExecutionContext(tmp_path, device="cpu")
    with monkeypatch.context() as patch:
        interrupt(patch, loop, "write_json", 0)
        with pytest.raises(Killed):
            sweep.train_runs([own], context)
    (state,) = (tmp_path / own.run_id / "checkpoint").iterdir()
    tensors = load_file(state)
    with safe_open(state, "pt") as file:
        values = json.loads(file.metadata()["state"])
    if change == "shape":
        tensors["first"] = tensors["first"][:-1].clone()
    elif change == "missing":
        del tensors["values"]
    elif change == "counter":
        values["colour"] = 1
    else:
        values = [1]
    save_file(tensors, state, {"state": json.dumps(values)})
    with pytest.raises(StorageError, match=r"is not one of this run\. Delete that folder|is damaged .* counters"):
        sweep.train_runs([own], context)
