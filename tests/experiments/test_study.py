"""Studies: what is finished is never trained again, shared runs are copied, what cannot be made says why."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from icecore.backbones import BodyRequest, build_backbone
from icecore.core.config import ROLES, RunConfig
from icecore.core.errors import ConfigError
from icecore.experiments import results, study, sweep
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan
from icecore.model.program import Program
from icecore.training.checkpoint import RunFolder

Configure = Callable[..., RunConfig]
LRS, SEEDS = (1e-2, 3e-2, 1e-1), (0, 1)


def cell(config: RunConfig, row: str = "pretrained", table: str = "t", **changes: Any) -> CellPlan:
    lr_sweep = sweep.Sweep(config, LRS, SEEDS, staged=True)
    return CellPlan(CellKey(table, row, "bit-xor", "cpu", "tiny"), lr_sweep, f"the command of {row}", **changes)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Configurations handed to the training loop, in order."""
    seen: list[RunConfig] = []
    original = sweep.train_pack

    def watch(task: Any, backbone: Any, configs: Any, execution: Any) -> Any:
        seen.extend(configs)
        return original(task, backbone, configs, execution)

    monkeypatch.setattr(sweep, "train_pack", watch)
    return seen


def place(folder: Path, **changes: Any) -> sweep.Place:
    return sweep.Place(folder / "runs", device="cpu", **changes)


def test_the_first_seed_sweeps_and_the_others_follow(
    config: Configure, tmp_path: Path, trained: list[RunConfig]
) -> None:
    file = tmp_path / "t.jsonl"
    records = study.run_study([cell(config())], file, place(tmp_path), print)
    runs = [(c.lr, c.seed) for c in trained]
    assert runs[:3] == [(lr, 0) for lr in LRS]
    chosen = max(records[:3], key=lambda r: r.summary["val_metric"]).summary["lr"]
    assert runs[3:] == [(chosen, 1)]
    assert results.read(file)[0] == records
    assert {r.command for r in records} == {"the command of pretrained"}
    group = sweep.summarize_runs([r.summary for r in records])
    assert (group["chosen_lr"], group["n_seeds"]) == (chosen, 2)


def test_asking_again_trains_nothing(config: Configure, tmp_path: Path, trained: list[RunConfig]) -> None:
    file = tmp_path / "t.jsonl"
    cells = [cell(config())]
    first = study.run_study(cells, file, place(tmp_path), print)
    text, count = file.read_text(), len(trained)
    assert study.unfinished(cells, tmp_path, "cpu") == []
    assert study.run_study(cells, file, place(tmp_path), print) == first
    assert (file.read_text(), len(trained)) == (text, count)
    # without the results, the run folders are enough; without the folders, the results are
    file.unlink()
    assert study.run_study(cells, file, place(tmp_path), print) == first
    assert study.run_study(cells, file, place(tmp_path / "elsewhere"), print) == first
    assert len(trained) == count
    study.run_study(cells, file, place(tmp_path, resume=False), print)
    assert len(trained) == 2 * count


def test_a_run_of_two_tables_is_made_once(config: Configure, tmp_path: Path, trained: list[RunConfig]) -> None:
    study.run_study([cell(config())], tmp_path / "t.jsonl", place(tmp_path), print)
    count = len(trained)
    records = study.run_study([cell(config(), table="u")], tmp_path / "u.jsonl", place(tmp_path), print)
    assert len(trained) == count
    assert {r.spot.study for r in records} == {"u"}
    assert len(results.read(tmp_path)[0]) == 2 * len(records)


def test_what_is_unfinished_goes_on(config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell(config(), "a"), cell(config(weights="random"), "b")]
    unbroken = study.run_study(cells, tmp_path / "one" / "t.jsonl", place(tmp_path / "one"), print)
    original = sweep.train_pack

    def killed(task: Any, backbone: Any, configs: Any, execution: Any) -> Any:
        if configs[0].weights == "random":
            raise KeyboardInterrupt
        return original(task, backbone, configs, execution)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train_pack", killed)
        with pytest.raises(KeyboardInterrupt):
            study.run_study(cells, tmp_path / "two" / "t.jsonl", place(tmp_path / "two"), print)
    ((todo, seconds),) = study.unfinished(cells, tmp_path / "two", "cpu")
    assert todo.spot.row == "b"
    assert seconds > 0
    again = study.run_study(cells, tmp_path / "two" / "t.jsonl", place(tmp_path / "two"), print)
    metrics = [[r.summary["test_metric"] for r in records] for records in (unbroken, again)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "gpt2"}, "hf download openai-community/gpt2"),
        ({"task": "mnist", "task_options": {}}, "icecore data get mnist"),
        ({"layers": 9}, "layers"),
    ],
)
def test_a_cell_that_cannot_be_made_says_what_to_get(
    config: Configure, tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    file, said = tmp_path / "t.jsonl", []
    cells = [cell(config(**changes), "absent"), cell(config(), "there")]
    records = study.run_study(cells, file, place(tmp_path, data_dir=str(tmp_path)), said.append)
    assert message in records[0].missing
    assert message in said[0]
    assert said[0].startswith("absent, bit-xor: ")
    assert len(said) == 1
    assert [r.spot.row for r in records[1:]] == ["there"] * 4
    assert results.read(file)[0] == records


def test_the_task_of_neighbouring_cells_is_read_once(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [], sweep.load_task
    monkeypatch.setattr(sweep, "load_task", lambda *args: (calls.append(args[0].task_options), original(*args))[1])
    few = [config(), config(weights="random"), config(task_options={"n": 3})]
    study.run_study([cell(c, f"row {i}") for i, c in enumerate(few)], tmp_path / "t.jsonl", place(tmp_path), print)
    assert calls == [{"n": 2}, {"n": 3}]


def test_what_another_process_trains_comes_last(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cells = tmp_path / "t.jsonl", [cell(config(weights="random"), "theirs"), cell(config(), "ours")]
    lock = RunFolder(tmp_path / "runs", cells[0].sweep.missing({})[0]).lock()
    trained, original = [], sweep.train_pack

    def watch(task: Any, backbone: Any, configs: Any, execution: Any) -> Any:
        trained.append(configs[0].weights)
        if trained == ["pretrained"]:  # meanwhile the other process makes its cell
            lock.__exit__(None, None, None)
            study.run_study(cells[:1], file, place(tmp_path), print)
        return original(task, backbone, configs, execution)

    monkeypatch.setattr(sweep, "train_pack", watch)
    assert lock.__enter__()
    records = study.run_study(cells, file, place(tmp_path), print)
    assert trained == ["pretrained", "random", "random", "pretrained"]
    assert [r.spot.row for r in records] == ["theirs"] * 4 + ["ours"] * 4
    assert len(file.read_text().splitlines()) == 8
    assert results.read(file)[0] == records


def test_a_body_pretrained_on_the_way(config: Configure, tmp_path: Path, trained: list[RunConfig]) -> None:
    start = config(weights="random", train_roles=ROLES, steps=6)
    path = tmp_path / "bodies" / "tiny.safetensors"
    cells = [cell(config(weights=str(path)), row, pretraining=start) for row in ("a", "b")]
    records = study.run_study(cells, tmp_path / "t.jsonl", place(tmp_path), print)
    assert trained[0] == start
    assert trained.count(start) == 1
    assert [r.spot.row for r in records] == ["a"] * 4 + ["b"] * 4
    random = build_backbone(BodyRequest(start.backbone, "random")).tensors()
    held = build_backbone(BodyRequest(start.backbone, str(path))).tensors()
    program = Program.load(RunFolder(tmp_path / "runs", start).program_path).tensors
    moved = {name for name in random if not torch.equal(random[name], held[name])}
    # every weight that has a gradient: a last bias before a norm's mean may have none
    assert len(moved) > 0.9 * len(random)
    for name in random:
        if name == "positions":
            T = len(program["positions"])
            torch.testing.assert_close(held[name][:T], program["positions"])
            torch.testing.assert_close(held[name][T:], random[name][T:])
        else:
            torch.testing.assert_close(held[name], program[f"body.{name}"])


def test_pretraining_is_counted_once(config: Configure, tmp_path: Path) -> None:
    start = config(weights="random", train_roles=ROLES, steps=10_000)
    pair = [cell(config(weights="w.safetensors", backbone="minilm"), row, pretraining=start) for row in ("a", "b")]
    first, second = (seconds for _, seconds in study.unfinished(pair, tmp_path, "cpu"))
    assert first > second


def test_attention_of_the_chosen_run(config: Configure, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    cells = [cell(config(), attend=True)]
    records = study.run_study(cells, file, place(tmp_path), print)
    chosen = sweep.summarize_runs([r.summary for r in records])["chosen_lr"]
    held = [r for r in records if r.extra]
    assert [(r.summary["lr"], r.summary["seed"]) for r in held] == [(chosen, 0)]
    measured = held[0].extra["attention"]
    assert measured["n"] == 2
    assert 0 < measured["best"] <= 1
    assert measured["uniform"] == 0.5
    assert (tmp_path / held[0].extra["picture"]).read_bytes().startswith(b"\x89PNG")
    assert study.run_study(cells, file, place(tmp_path), print) == records
    assert results.read(file)[0] == records


def test_attention_is_measured_on_bit_xor_only(config: Configure, tmp_path: Path) -> None:
    small = {"strings": 2, "bits": 4, "width": 2}
    cells = [cell(config(task="bit-memory", task_options=small, eval_examples=8, test_examples=8), attend=True)]
    (record,) = study.run_study(cells, tmp_path / "t.jsonl", place(tmp_path), print)
    assert "measured on bit-xor" in record.missing


def test_diverged_sweeps_end(config: Configure, tmp_path: Path) -> None:
    wild = CellPlan(CellKey("t", "wild", "bit-xor"), sweep.Sweep(config(clip=1e30), (1e30,), (0, 1), staged=True), "")
    records = study.run_study([wild], tmp_path / "t.jsonl", place(tmp_path), print)
    assert {r.summary["status"] for r in records} <= {"diverged", "completed"}
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])["row"] == "wild"


def test_a_disk_that_refuses_stops_everything(config: Configure, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(Exception, match="cannot be written"):
        study.run_study([cell(config())], tmp_path / "t.jsonl", place(tmp_path), print)
    with pytest.raises(ConfigError, match="not a run folder"):
        sweep.read_run_config(tmp_path / "runs")
