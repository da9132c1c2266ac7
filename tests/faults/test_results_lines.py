"""Results files and run folders with odd lines: each bad line is reported, and the rest is used."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
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


ODD_TEXTS = ["a" * 100, "\ud800", "\x1b[2J\x00", "$\\frac{$", "`<script>`|", "../../x"]


def test_the_report_shows_odd_texts_and_is_written_all_the_same(results: Path, run: Run) -> None:
    first = json.loads((results / "mine.jsonl").read_text().splitlines()[0])
    odd = [{**first, "study": text, "row": text, "column": text, "date": text, "command": text} for text in ODD_TEXTS]
    odd += [{**first, "extra": {"picture": text + ".png"}} for text in ODD_TEXTS]
    odd += [{**first, "data": {"counts": [1]}}, {**first, "validation": [[10**400, 0.5]]}, {**first, "lr": -1e99}]
    odd += [{**first, "row": "a" * 5000}, {**first, "extra": {"picture": "a" * 5000 + ".png"}}]
    odd += [{**first, "test_metrics": {"test": float("nan")}}, {**first, "trainable_parameters": 10**90}]
    (results / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in odd))
    ended = run("report", results, "--out", results / "report")
    assert ended.code == 0, ended.err
    assert "a name in it has more than 400 characters" in ended.err
    assert "counts of data: expected a table of names and finite numbers" in ended.err
    assert "validation has steps or values that no training has" in ended.err
    for name in ("report.md", "index.html"):
        text = (results / "report" / name).read_text("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f]", text)
    assert "<script>`" not in text  # of the page; the other one has it between backticks


@pytest.mark.parametrize("name", ["summary.json", "config.json", "events.jsonl", "more.jsonl"])
@pytest.mark.parametrize("kind", ["endless", "folder", "loop", "deep"])
def test_a_neighbour_that_cannot_be_read_costs_itself(results: Path, run: Run, name: str, kind: str) -> None:
    folder = next(path.parent for path in (results / "runs").glob("*/config.json"))
    file = results / "runs" / name if name == "more.jsonl" else folder / name
    file.unlink(missing_ok=True)
    if kind == "endless":
        with file.open("wb") as opened:
            opened.truncate(2**27)
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file.name)
    else:
        file.write_text("[" * 100_000)
    ended = run("report", results / "runs", "--out", results / "report")
    assert ended.code == 0, ended.err
    assert name == "events.jsonl" or kind == "loop" or name in ended.err


def test_a_record_is_written_once_however_often_it_is_appended(results: Path) -> None:
    file = results / "mine.jsonl"
    records, _ = read_records(file)
    before = file.read_bytes()
    append_records(file, records)
    append_records(file, [replace(records[0], date="2000-01-01", command="another")])
    assert file.read_bytes() == before
    append_records(file, [replace(records[0], extra={"measured": 1})])
    assert len(file.read_bytes().splitlines()) == len(records) + 1


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
