"""All tasks go through the whole engine on real data: train, choose, score, save, open again."""

from pathlib import Path
from typing import Any

import pytest

from icecore.core.errors import DataError
from icecore.experiments import sweep
from icecore.tasks import TASKS, build_task
from icecore.tasks.data_files import data_roots
from icecore.tasks.entry import TaskRequest
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import RunSummary

PAPER = ("bit-memory", "bit-xor", "listops", "mnist", "cifar10", "cifar10-lra", "remote-homology")
ALGORITHMS = ("modular-addition", "needle", "decimal-addition", "parenthesis-balancing")
GENERATED = {"bit-memory": {}, "bit-xor": {}, "listops": {"train": 60, "val": 10, "test": 10}}
PROCEDURAL = ("copy", "dyck", "nca")
GENERATED |= {key: {} for key in ALGORITHMS + PROCEDURAL}


def go(task: str, place: Path, data_dir: Path | None, **settings: Any) -> RunSummary:
    short: dict[str, Any] = {"steps": 2, "batch_size": 2, "eval_every": 2, "eval_examples": 4, "test_examples": 4}
    body: dict[str, Any] = {
        "backbone": "minilm",
        "weights": "random",
        "layers": 1,
        "task_options": GENERATED.get(task, {}),
    }
    config = sweep.make_config(task, **(short | body | settings))
    group = sweep.run_sweep([config], ExecutionContext(place, None if data_dir is None else str(data_dir)))
    model, _ = sweep.open_run(place / config.run_id, None if data_dir is None else str(data_dir))
    assert model.runs == 1
    return group.runs[0]


def check(summary: RunSummary, task: str) -> None:
    assert summary.task == task
    assert summary.test_metric is not None
    assert summary.val_metric is not None
    assert 0 <= summary.test_metric <= 1
    assert 0 <= summary.val_metric <= 1
    assert summary.test_examples == 4


def test_all_are_there():
    assert tuple(TASKS) == PAPER + ALGORITHMS + PROCEDURAL


@pytest.mark.parametrize("task", GENERATED)
@pytest.mark.parametrize("protocol", ["fair", "paper"])
def test_generated(task: str, protocol: str, tmp_path: Path):
    check(go(task, tmp_path, None, protocol=protocol), task)


@pytest.mark.data
@pytest.mark.parametrize("task", [name for name in TASKS if name not in GENERATED])
def test_real(task: str, real_data: Path, tmp_path: Path):
    summary = go(task, tmp_path, real_data)
    check(summary, task)
    if task == "remote-homology":
        assert list(summary.test_metrics) == ["test_fold", "test_superfamily", "test_family"]


@pytest.mark.data
def test_homology_under_the_paper_protocol(real_data: Path, tmp_path: Path):
    summary = go("remote-homology", tmp_path, real_data, protocol="paper")
    assert list(summary.test_metrics) == ["val"]


@pytest.mark.parametrize("backbone", ["lstm", "lstm-star", "lstm-matched:minilm", "none"])
def test_bodies_without_attention(backbone: str, tmp_path: Path):
    layers = {"layers": None} if backbone == "none" else {}
    check(go("bit-xor", tmp_path, None, backbone=backbone, **layers), "bit-xor")


@pytest.mark.parametrize("task", TASKS)
def test_the_table_names_the_options(task: str):
    from icecore.core.errors import ConfigError

    with pytest.raises(ConfigError, match=f"option of {task}"):
        build_task(task, TaskRequest({"nonsense": 1}))


def test_only_the_folder_that_a_user_names_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("named", "variable"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / "cache"))
    assert data_roots(None) == [tmp_path / "cache"]
    monkeypatch.setenv("ICECORE_DATA", str(tmp_path / "variable"))
    assert data_roots(None) == [tmp_path / "variable", tmp_path / "cache"]
    assert data_roots(str(tmp_path / "named")) == [tmp_path / "named"]
    with pytest.raises(DataError, match=r"--data-dir .*nowhere: there is no such folder"):
        data_roots(str(tmp_path / "nowhere"))
    monkeypatch.setenv("ICECORE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"ICECORE_DATA=.*nowhere: there is no such folder"):
        data_roots(None)
