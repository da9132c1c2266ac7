"""Studies: finished runs are not trained again, shared runs are copied, and cells that cannot be trained say why."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from icecore.backbones import BodyRequest, build_backbone
from icecore.core.config import ROLES, RunConfig
from icecore.core.errors import ConfigError
from icecore.experiments import sweep
from icecore.experiments.results import CellKey, read_records
from icecore.experiments.study import CellPlan, run_study, unfinished_cells
from icecore.model.fpt import FPT
from icecore.model.program import Program
from icecore.tasks.task import Task
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext

Configure = Callable[..., RunConfig]
LRS, SEEDS = (1e-2, 3e-2, 1e-1), (0, 1)


def cell(config: RunConfig, row: str = "pretrained", table: str = "t", **changes: Any) -> CellPlan:
    lr_sweep = sweep.Sweep(config, LRS, SEEDS, staged=True)
    return CellPlan(CellKey(table, row, "bit-xor", "cpu", "tiny"), lr_sweep, f"the command of {row}", **changes)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that reach the training loop, in order."""
    seen: list[RunConfig] = []
    original = sweep.train_pack

    def watch(task: Any, backbone: Any, configs: Any, execution: Any) -> Any:
        seen.extend(configs)
        return original(task, backbone, configs, execution)

    monkeypatch.setattr(sweep, "train_pack", watch)
    return seen


def context(folder: Path, **changes: Any) -> ExecutionContext:
    return ExecutionContext(folder / "runs", device="cpu", **changes)


def test_the_first_seed_tries_all_rates_and_the_others_the_chosen_one(
    config: Configure, tmp_path: Path, trained: list[RunConfig]
) -> None:
    file = tmp_path / "t.jsonl"
    records = run_study([cell(config())], file, context(tmp_path), print)
    runs = [(c.lr, c.seed) for c in trained]
    assert runs[:3] == [(lr, 0) for lr in LRS]
    chosen = max(records[:3], key=lambda r: r.summary.val_metric or 0.0).summary.lr
    assert runs[3:] == [(chosen, 1)]
    assert read_records(file)[0] == records
    assert {r.command for r in records} == {"the command of pretrained"}
    group = sweep.summarize_runs([r.summary for r in records])
    assert (group.chosen_lr, group.n_seeds) == (chosen, 2)


def test_finished_cells_are_not_trained_again(config: Configure, tmp_path: Path, trained: list[RunConfig]) -> None:
    file = tmp_path / "t.jsonl"
    cells = [cell(config())]
    first = run_study(cells, file, context(tmp_path), print)
    text, count = file.read_text(), len(trained)
    assert unfinished_cells(cells, tmp_path, "cpu") == []
    assert run_study(cells, file, context(tmp_path), print) == first
    assert (file.read_text(), len(trained)) == (text, count)
    # the run folders are enough without the results, and the results without the folders
    file.unlink()
    assert run_study(cells, file, context(tmp_path), print) == first
    assert run_study(cells, file, context(tmp_path / "elsewhere"), print) == first
    assert len(trained) == count
    run_study(cells, file, context(tmp_path, resume=False), print)
    assert len(trained) == 2 * count


def test_a_run_of_two_tables_is_trained_once(config: Configure, tmp_path: Path, trained: list[RunConfig]) -> None:
    run_study([cell(config())], tmp_path / "t.jsonl", context(tmp_path), print)
    count = len(trained)
    records = run_study([cell(config(), table="u")], tmp_path / "u.jsonl", context(tmp_path), print)
    assert len(trained) == count
    assert {r.key.study for r in records} == {"u"}
    assert len(read_records(tmp_path)[0]) == 2 * len(records)


def test_an_interrupted_study_continues(config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell(config(), "a"), cell(config(weights="random"), "b")]
    unbroken = run_study(cells, tmp_path / "one" / "t.jsonl", context(tmp_path / "one"), print)
    original = sweep.train_pack

    def killed(task: Any, backbone: Any, configs: Any, execution: Any) -> Any:
        if configs[0].weights == "random":
            raise KeyboardInterrupt
        return original(task, backbone, configs, execution)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train_pack", killed)
        with pytest.raises(KeyboardInterrupt):
            run_study(cells, tmp_path / "two" / "t.jsonl", context(tmp_path / "two"), print)
    ((unfinished, seconds),) = unfinished_cells(cells, tmp_path / "two", "cpu")
    assert unfinished.key.row == "b"
    assert seconds > 0
    again = run_study(cells, tmp_path / "two" / "t.jsonl", context(tmp_path / "two"), print)
    metrics = [[r.summary.test_metric for r in records] for records in (unbroken, again)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "gpt2"}, "hf download openai-community/gpt2"),
        ({"task": "mnist", "task_options": {}}, "icecore data get mnist"),
        ({"layers": 9}, "layers"),
    ],
)
def test_a_cell_that_cannot_be_trained_says_what_to_get(
    config: Configure, tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    file, messages = tmp_path / "t.jsonl", []
    cells = [cell(config(**changes), "unavailable"), cell(config(), "available")]
    records = run_study(cells, file, context(tmp_path, data_dir=str(tmp_path)), messages.append)
    assert message in records[0].missing
    assert message in messages[0]
    assert messages[0].startswith("unavailable, bit-xor: ")
    assert len(messages) == 1
    assert [r.key.row for r in records[1:]] == ["available"] * 4
    assert read_records(file)[0] == records


def test_consecutive_cells_of_a_task_read_its_data_once(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [], sweep.load_task
    monkeypatch.setattr(sweep, "load_task", lambda *args: (calls.append(args[0].task_options), original(*args))[1])
    configs = [config(), config(weights="random"), config(task_options={"n": 3})]
    run_study([cell(c, f"row {i}") for i, c in enumerate(configs)], tmp_path / "t.jsonl", context(tmp_path), print)
    assert calls == [{"n": 2}, {"n": 3}]


def test_cells_that_another_process_is_training_come_last(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cells = tmp_path / "t.jsonl", [cell(config(weights="random"), "theirs"), cell(config(), "ours")]
    lock = RunFolder(tmp_path / "runs", cells[0].sweep.missing({})[0]).lock()
    trained, original = [], sweep.train_pack

    def watch(task: Any, backbone: Any, configs: Any, execution: Any) -> Any:
        trained.append(configs[0].weights)
        if trained == ["pretrained"]:  # meanwhile the other process trains its cell
            lock.__exit__(None, None, None)
            run_study(cells[:1], file, context(tmp_path), print)
        return original(task, backbone, configs, execution)

    monkeypatch.setattr(sweep, "train_pack", watch)
    assert lock.__enter__()
    records = run_study(cells, file, context(tmp_path), print)
    assert trained == ["pretrained", "random", "random", "pretrained"]
    assert [r.key.row for r in records] == ["theirs"] * 4 + ["ours"] * 4
    assert len(file.read_text().splitlines()) == 8
    assert read_records(file)[0] == records


def test_a_body_is_pretrained_once_for_all_its_cells(
    config: Configure, tmp_path: Path, trained: list[RunConfig]
) -> None:
    start = config(weights="random", train_roles=ROLES, steps=6)
    path = tmp_path / "bodies" / "tiny.safetensors"
    cells = [cell(config(weights=str(path)), row, pretraining=start) for row in ("a", "b")]
    records = run_study(cells, tmp_path / "t.jsonl", context(tmp_path), print)
    assert trained[0] == start
    assert trained.count(start) == 1
    assert [r.key.row for r in records] == ["a"] * 4 + ["b"] * 4
    random = build_backbone(BodyRequest(start.backbone, "random")).tensors()
    pretrained = build_backbone(BodyRequest(start.backbone, str(path))).tensors()
    program = Program.load(RunFolder(tmp_path / "runs", start).program_path).tensors
    changed = {name for name in random if not torch.equal(random[name], pretrained[name])}
    # a bias before a norm that subtracts the mean has no gradient and does not change
    assert len(changed) > 0.9 * len(random)
    for name in random:
        if name == "positions":
            T = len(program["positions"])
            torch.testing.assert_close(pretrained[name][:T], program["positions"])
            torch.testing.assert_close(pretrained[name][T:], random[name][T:])
        else:
            torch.testing.assert_close(pretrained[name], program[f"body.{name}"])


def test_pretraining_is_counted_once(config: Configure, tmp_path: Path) -> None:
    start = config(weights="random", train_roles=ROLES, steps=10_000)
    pair = [cell(config(weights="w.safetensors", backbone="minilm"), row, pretraining=start) for row in ("a", "b")]
    first, second = (seconds for _, seconds in unfinished_cells(pair, tmp_path, "cpu"))
    assert first > second


def test_each_seed_of_the_chosen_rate_is_analyzed_once(config: Configure, tmp_path: Path) -> None:
    file, calls = tmp_path / "t.jsonl", list[str]()

    def analysis(model: FPT, task: Task, folder: Path, run_id: str) -> Mapping[str, Any]:
        calls.append(run_id)
        return {"runs": model.runs, "task": task.name, "folder": folder.name}

    cells = [cell(config(), analysis=analysis)]
    records = run_study(cells, file, context(tmp_path), print)
    chosen = sweep.summarize_runs([r.summary for r in records]).chosen_lr
    analyzed = [record for record in records if record.extra]
    seeds = cells[0].sweep.seeds
    assert len(seeds) > 1
    assert [(r.summary.lr, r.summary.seed) for r in analyzed] == [(chosen, seed) for seed in seeds]
    assert all(r.extra == {"runs": 1, "task": "bit-xor", "folder": tmp_path.name} for r in analyzed)
    assert calls == [r.run_id for r in analyzed]
    assert run_study(cells, file, context(tmp_path), print) == records
    assert calls == [r.run_id for r in analyzed]
    assert read_records(file)[0] == records


def test_an_analysis_that_does_not_fit_the_task_is_recorded(config: Configure, tmp_path: Path) -> None:
    def analysis(model: FPT, task: Task, folder: Path, run_id: str) -> Mapping[str, Any]:
        raise ConfigError(f"{task.name} cannot be analyzed")

    cells = [cell(config(), analysis=analysis)]
    (record,) = run_study(cells, tmp_path / "t.jsonl", context(tmp_path), print)
    assert record.missing == "bit-xor cannot be analyzed"


def test_a_diverged_sweep_is_recorded(config: Configure, tmp_path: Path) -> None:
    wild = CellPlan(CellKey("t", "wild", "bit-xor"), sweep.Sweep(config(clip=1e30), (1e30,), (0, 1), staged=True), "")
    records = run_study([wild], tmp_path / "t.jsonl", context(tmp_path), print)
    assert {r.summary.status for r in records} <= {"diverged", "completed"}
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])["row"] == "wild"


def test_an_unwritable_folder_stops_the_study(config: Configure, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(Exception, match="cannot be written"):
        run_study([cell(config())], tmp_path / "t.jsonl", context(tmp_path), print)
    with pytest.raises(ConfigError, match="is not a run folder"):
        sweep.read_run_config(tmp_path / "runs")
