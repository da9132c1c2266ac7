"""Files are written whole or not at all; a run folder belongs to one configuration and survives damage."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icecore.core import storage
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, StorageError
from icecore.core.storage import write_json
from icecore.training.checkpoint import RunFolder, SecondaryRunFolder, common_step, differences

CONFIG = RunConfig(task="bit-xor", steps=10, batch_size=4, lr=1e-3)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path, CONFIG)
    folder.open()
    return folder


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def save(folder: RunFolder, step: int, **values: object) -> None:
    folder.save_state(step, {"values": torch.full((3,), float(step))}, values)


def test_a_loaded_state_equals_the_saved_one(folder: RunFolder) -> None:
    tensors = {"values": torch.randn(5), "alive": torch.tensor(True), "empty": torch.zeros(0)}
    values = {"stopped": None, "best_metric": 0.1 + 0.2, "final": {"val": 1 / 3}}
    folder.save_state(7, tensors, values)
    loaded, counters = folder.load_state(7)
    assert counters == values
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_states_are_listed_and_dropped(folder: RunFolder) -> None:
    assert folder.saved_steps() == []
    for step in (30, 4, 100):
        save(folder, step)
    (folder.states / "notes.txt").write_text("not a state")
    assert folder.saved_steps() == [4, 30, 100]
    folder.drop_states(keep=30)
    assert folder.saved_steps() == [30]
    folder.drop_states()
    assert folder.saved_steps() == []


@pytest.mark.parametrize(
    ("saved", "ends", "expected"),
    [
        ([[], []], [None, None], None),
        ([[10], []], [None, None], None),
        ([[10, 20], [10]], [None, None], 10),
        ([[10, 20], [10, 20]], [None, None], 20),
        ([[30], [10]], [None, 10], 30),  # one run stopped at 10, the other went on
        ([[10, 20], [10, 20], [10]], [None, 20, None], 10),  # killed while two were about to stop
        ([[20], [10]], [20, 10], 20),
        ([[20], [10]], [None, None], None),
    ],
)
def test_common_step(tmp_path: Path, saved: list[list[int]], ends: list[int | None], expected: int | None) -> None:
    folders = [RunFolder(tmp_path, replace(CONFIG, seed=seed)) for seed in range(len(saved))]
    for folder, steps in zip(folders, saved, strict=True):
        for step in steps:
            save(folder, step)
    assert common_step(folders, ends) == expected


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * len(b)])
def test_a_damaged_state_is_refused_with_its_remedy(folder: RunFolder, damage: Callable[[bytes], bytes]) -> None:
    save(folder, 5)
    path = next(folder.states.iterdir())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        StorageError, match=rf"The state {path} is damaged .*Delete it to continue from an earlier state"
    ):
        folder.load_state(5)


def test_a_folder_of_another_configuration_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    other = replace(CONFIG, lr=0.5, backbone="gpt2")
    folder.path.rename(tmp_path / other.run_id)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="another configuration") as caught:
        RunFolder(tmp_path, other).open()
    assert "lr 0.001 there, 0.5 here" in str(caught.value)
    assert "backbone 'minilm' there, 'gpt2' here" in str(caught.value)
    assert "Choose another --out, or move the folder away" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"task": "bit-xor", "stpes": 3}'])
def test_a_damaged_configuration_is_named(folder: RunFolder, text: str) -> None:
    path = folder.path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{path}: .*Move the folder away"):
        folder.open()


def test_settings_that_only_one_of_two_configurations_has_differ() -> None:
    fast, fair = replace(CONFIG, averaging=0.1), CONFIG
    assert differences(fast, fair) == "averaging 0.1 there, None here"
    assert differences(fair, fast) == "averaging None there, 0.1 here"


def test_opening_again_changes_nothing(folder: RunFolder) -> None:
    folder.log([{"event": "start", "step": 0}])
    save(folder, 3)
    before = files(folder.path)
    times = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")}
    RunFolder(folder.path.parent, CONFIG).open()
    assert files(folder.path) == before
    assert {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")} == times


def test_a_killed_writers_temporary_files_are_cleared(folder: RunFolder) -> None:
    save(folder, 3)
    for name in (".summary.json.123.tmp", "checkpoint/.step_000000004.safetensors.123.tmp"):
        (folder.path / name).write_bytes(b"half")
    folder.clean_up()
    assert sorted(files(folder.path)) == ["checkpoint/step_000000003.safetensors", "config.json"]


def test_a_half_written_last_event_is_left_out_and_harms_no_later_one(folder: RunFolder) -> None:
    folder.log([{"event": "start", "step": 0}, {"event": "train", "step": 5}])
    with folder.events_path.open("a") as file:
        file.write('{"event": "validation", "st')
    assert [e["event"] for e in folder.events()] == ["start", "train"]
    folder.clean_up()
    folder.log([{"event": "start", "step": 2}])
    assert [(e["event"], e["step"]) for e in folder.events()] == [("start", 0), ("start", 2)]


def test_events_that_a_resumed_run_did_again_count_once(folder: RunFolder) -> None:
    steps = [("start", 0), ("train", 4), ("train", 8), ("start", 4), ("train", 8), ("train", 12)]
    folder.log([{"event": event, "step": step} for event, step in steps])
    trained = [e["step"] for e in folder.events() if e["event"] == "train"]
    assert trained == [4, 8, 12]


def test_a_damaged_summary_is_named(folder: RunFolder) -> None:
    assert folder.summary() is None
    folder.summary_path.write_text("{")
    with pytest.raises(ConfigError, match=rf"The file {folder.summary_path} is damaged .*Delete it and train again"):
        folder.summary()


def test_the_other_processes_of_a_training_change_no_file(folder: RunFolder) -> None:
    """The first process may be writing, so that even its temporary files must stay."""
    save(folder, 3)
    folder.events_path.write_text('{"event": "start", "st')
    (folder.path / ".summary.json.123.tmp").write_bytes(b"half")
    before = files(folder.path)
    secondary = SecondaryRunFolder(folder.path.parent, CONFIG)
    secondary.open()
    secondary.clean_up()
    with secondary.lock() as locked:
        assert locked
        save(secondary, 4)
        secondary.log([{"event": "train", "step": 4}])
        secondary.drop_states()
        secondary.reset()
    assert (secondary.summary(), secondary.events(), secondary.saved_steps()) == (None, [], [])
    assert files(folder.path) == before


def test_reset_leaves_the_configuration_only(folder: RunFolder) -> None:
    before = files(folder.path)
    folder.log([{"event": "start", "step": 0}])
    write_json(folder.summary_path, {})
    folder.program_path.write_bytes(b"")
    save(folder, 3)
    folder.reset()
    assert files(folder.path) == before


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_what_was_there(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    save(folder, 5, best=1)
    before = files(folder.path)

    def full(*args: object) -> None:
        if failing == "write":
            Path(str(args[1])).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner, name = {"write": (storage, "save_file"), "fsync": (os, "fsync"), "rename": (Path, "replace")}[failing]
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(
        StorageError, match=r"step_000000005.*No space left on device.*file that was there before is unchanged"
    ):
        save(folder, 5, best=2)
    assert files(folder.path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_events_on_a_full_disk(folder: RunFolder) -> None:
    folder.events_path.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"events.jsonl: cannot be written \(No space left on device\)"):
        folder.log([{"event": "train", "step": 1}])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"out/.*config.json: cannot be written"):
        RunFolder(tmp_path / "out", CONFIG).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=r"cannot be written.*Permission denied"):
        RunFolder(tmp_path, CONFIG).open()


def test_files_have_the_permissions_that_the_user_has_set(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    storage.write_tensors(tmp_path / "program", {"x": torch.ones(1)}, {})
    assert (tmp_path / "program").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_one_process_at_a_time_trains_a_run(folder: RunFolder) -> None:
    with folder.lock() as first:
        assert first
        with folder.lock(wait=False) as second:
            assert not second
    with folder.lock(wait=False) as third:
        assert third
