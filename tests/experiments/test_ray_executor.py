"""Ray: what nodes make is what this process makes, a lost node costs nothing, whatever is finished stays as it is."""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from commandline import Run
from icecore.backbones.backbone import Backbone
from icecore.backbones.weights import save
from icecore.core.config import RunConfig
from icecore.core.device import MEMORY_SHARE_VARIABLE
from icecore.core.errors import BusyError, ConfigError, UserError, WeightsError
from icecore.experiments import ray_executor as cluster
from icecore.experiments import results, study, sweep
from icecore.experiments.ray_executor import Job, Nodes, RayExecutor
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan
from icecore.model.program import Program
from icecore.training.checkpoint import RunFolder

Configure = Callable[..., RunConfig]
#: what two trainings of the same runs may differ in
CLOCKS = {"seconds", "seconds_share", "steps_per_second", "packed_runs", "device"}

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'icecore[ray]'")
#: Ray leaves files and sockets of its processes to the garbage collector
untidy = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def cell(config: RunConfig, row: str, lrs: Sequence[float] = (1e-2, 3e-2), **stages: Any) -> CellPlan:
    return CellPlan(
        CellKey("t", row, "bit-xor", "cpu", "tiny"), sweep.Sweep(config, lrs, (0, 1), **stages), f"of {row}"
    )


def place(folder: Path, **changes: Any) -> sweep.Place:
    return sweep.Place(folder / "runs", device="cpu", **changes)


def lasting(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in CLOCKS}


def program(folder: Path, run_id: str) -> Mapping[str, torch.Tensor]:
    return Program.load(folder / "runs" / run_id / "program.safetensors").tensors


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node sets for its packs goes with the test."""
    monkeypatch.setenv(MEMORY_SHARE_VARIABLE, "1")


# --- the parts, without Ray --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packs", "slots", "sizes"),
    [
        ([], 4, []),
        (["abcdefgh"], 1, [[8]]),
        (["abcdefgh"], 3, [[3, 3, 2]]),
        (["abcdefgh", "ijkl"], 3, [[4, 4], [4]]),
        (["abc", "d"], 9, [[1, 1, 1], [1]]),
        (["abc", "def"], 0, [[3], [3]]),
        (["abc"], -2, [[3]]),
    ],
)
def test_packs_are_cut_evenly_and_whole(packs: Sequence[Any], slots: int, sizes: list[list[int]]) -> None:
    cut = cluster.spread(packs, slots)
    assert [[len(part) for part in parts] for parts in cut] == sizes
    assert [set().union(*parts) for parts in cut] == [set(pack) for pack in packs]


def test_a_node_that_does_not_share_the_folder_hands_the_runs_over(config: Configure, tmp_path: Path) -> None:
    configs = sweep.expand_sweep(config(), [1e-2, 3e-2])
    delivery = cluster.run_job(Job(configs, place(tmp_path), tmp_path, ".marker"))
    assert float(os.environ[MEMORY_SHARE_VARIABLE]) == 1 / (os.cpu_count() or 1)
    assert not (tmp_path / "runs").exists()
    assert delivery.folders.keys() == {c.run_id for c in configs}
    for summary in map(dict, delivery.outcome if isinstance(delivery.outcome, list) else ()):
        files = delivery.folders[summary["run_id"]]
        assert list(files) == ["config.json", "events.jsonl", "program.safetensors", "summary.json"]
        assert json.loads(files["summary.json"]) == summary
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".marker").touch()
    assert cluster.run_job(Job(configs, place(tmp_path), tmp_path, ".marker")).folders == {}
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 2


def test_what_a_user_can_mend_comes_back_as_a_value(config: Configure, tmp_path: Path) -> None:
    order = Job([config(backbone="gpt2")], place(tmp_path), tmp_path, ".marker")
    assert isinstance(cluster.run_job(order).outcome, WeightsError)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".marker").touch()
    order = Job([config()], place(tmp_path, wait=False), tmp_path, ".marker")
    with RunFolder(tmp_path / "runs", config()).lock():
        assert isinstance(cluster.run_job(order).outcome, BusyError)


class Lossy:
    """A Ray that takes every task and loses it."""

    class exceptions:  # noqa: N801 (Ray's name)
        RayError = type("RayError", (Exception,), {})
        RayTaskError = type("RayTaskError", (RayError,), {})

    def __init__(self, *nodes: Mapping[str, float]) -> None:
        self.held = nodes
        self.orders: list[Job] = []
        self.options: dict[str, Any] = {}

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
        return [*({"Alive": True, "Resources": node} for node in self.held), dead]

    def cluster_resources(self) -> Mapping[str, float]:
        return {"GPU": sum(node.get("GPU", 0.0) for node in self.held)}

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.options = options
        return lambda function: SimpleNamespace(remote=self.take)

    def take(self, order: Job) -> int:
        self.orders.append(order)
        return len(self.orders)

    def wait(self, tasks: list[Any], num_returns: int) -> Any:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task: Any) -> Any:
        raise self.exceptions.RayError("The node died.\nand much more")


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lossy]:
    def build(*nodes: Mapping[str, float]) -> Lossy:
        ray = Lossy(*nodes)
        monkeypatch.setattr(cluster, "_ray", lambda: ray)
        return ray

    return build


def test_a_pack_lost_too_often_is_missing_and_the_others_go_on(
    config: Configure, tmp_path: Path, lossy: Callable[..., Lossy]
) -> None:
    lossy({"CPU": 2.0})
    sweep.train_runs(sweep.expand_sweep(config(weights="random"), [1e-2, 3e-2], [0, 1]), place(tmp_path))
    said: list[str] = []
    executor = RayExecutor(place(tmp_path), Nodes(), ".marker", said.append)
    cells = [cell(config(), "lost"), cell(config(weights="random"), "held")]
    lost, *held = study.run_study(cells, tmp_path / "t.jsonl", place(tmp_path), said.append, executor)
    assert lost.missing == "lost 4 times (The node died.); give the command again to go on"
    assert [r.spot.row for r in held] == ["held"] * 4
    assert said[0] == "pack 1 of 2: lost, bit-xor, 2 runs, lost"


@pytest.mark.parametrize(
    ("nodes", "asked", "device", "expected"),
    [
        ([{"CPU": 8.0}], Nodes(cpus=3), "auto", (2, 0.0, "cpu")),
        ([{"CPU": 3.0}, {"CPU": 5.0}], Nodes(cpus=2), "cpu", (3, 0.0, "cpu")),
        ([{"CPU": 8.0, "GPU": 2.0}], Nodes(), "auto", (2, 1.0, "cuda")),
        ([{"CPU": 8.0, "GPU": 2.0}], Nodes(), "cpu", (8, 0.0, "cpu")),
        ([{"CPU": 8.0, "GPU": 1.0}], Nodes(gpus=0.1), "cuda:1", (8, 0.1, "cuda")),
        ([{"CPU": 16.0, "GPU": 1.0}], Nodes(gpus=0.1), "auto", (10, 0.1, "cuda")),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}], Nodes(gpus=0), "auto", (12, 0.0, "cpu")),
    ],
)
def test_slots_and_device_follow_from_what_a_pack_is_given(
    tmp_path: Path,
    lossy: Callable[..., Lossy],
    nodes: Sequence[Mapping[str, float]],
    asked: Nodes,
    device: str,
    expected: tuple[int, float, str],
) -> None:
    ray = lossy(*nodes)
    executor = RayExecutor(sweep.Place(tmp_path, device=device), asked, ".marker", print)
    assert (executor.slots, ray.options["num_gpus"], executor.order.place.device) == expected
    assert ray.options["num_cpus"] == executor.order.threads == asked.cpus


def test_more_than_any_node_has_is_refused(tmp_path: Path, lossy: Callable[..., Lossy]) -> None:
    lossy({"CPU": 2.0}, {"CPU": 4.0})
    with pytest.raises(ConfigError, match=r"--cpus 5: no node .* the largest has 4 CPUs and 0 GPUs"):
        RayExecutor(place(tmp_path), Nodes(cpus=5), ".marker", print)
    with pytest.raises(ConfigError, match=r"--cpus 1 --gpus 0\.5: no node"):
        RayExecutor(place(tmp_path), Nodes(gpus=0.5), ".marker", print)


def test_runs_that_began_together_stay_together(config: Configure, tmp_path: Path, lossy: Callable[..., Lossy]) -> None:
    ray = lossy({"CPU": 8.0})
    configs = sweep.expand_sweep(config(), [1e-2, 3e-2], [0, 1])
    for begun in configs[:2]:
        folder = RunFolder(tmp_path / "runs", begun)
        folder.open()
        folder.log([{"event": "start", "step": 0, "pack": [c.run_id for c in configs[:2]]}])
    executor = RayExecutor(place(tmp_path, data_dir="data"), Nodes(), ".marker", print)
    executor.submit(configs, "title", wait=False)
    executor.finished()
    assert [list(order.configs) for order in ray.orders] == [configs[:2], configs[2:3], configs[3:]]
    assert Path(ray.orders[0].place.data_dir or "").is_absolute()


# --- on clusters -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes on loopback, one processor each, that this process is connected to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cluster.LOOPBACK, "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        import ray
        from ray.cluster_utils import Cluster

        common = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        held = Cluster(initialize_head=True, head_node_args=common)
        held.add_node(**common)
        ray.init(held.address, log_to_driver=False, logging_level=logging.ERROR)
        yield held
        ray.shutdown()
        held.shutdown()


@with_ray
@untidy
@pytest.mark.slow
def test_two_nodes_make_what_one_process_makes(
    config: Configure, tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, said = tmp_path / "one", tmp_path / "two", []
    cells = [
        cell(config(), "pretrained", staged=True),
        cell(config(weights="random"), "random"),
        cell(config(backbone="gpt2"), "absent"),
    ]
    alone = study.run_study(cells, one / "t.jsonl", place(one), said.append)
    monkeypatch.chdir(tmp_path)
    with cluster.ray_executor(place(Path("two")), Nodes(), said.append) as executor:
        assert executor.slots == 2
        assert len(list((two / "runs").glob(".cluster-*"))) == 1
        records = study.run_study(cells, two / "t.jsonl", place(Path("two")), said.append, executor)
    assert not list((two / "runs").glob(".cluster-*"))
    assert [r.spot for r in records] == [r.spot for r in alone]
    assert [lasting(r.summary) for r in records] == [lasting(r.summary) for r in alone]
    assert "hf download openai-community/gpt2" in records[-1].missing
    for record in records[:-1]:
        torch.testing.assert_close(program(two, record.run_id), program(one, record.run_id))
    assert set(map(str, results.read(two / "t.jsonl")[0])) == set(map(str, records))
    assert any("pack 1 of" in line and "runs" in line for line in said)
    # what is finished is not made again, with the results or without them
    before = {path: path.stat().st_mtime_ns for path in two.glob("runs/*/summary.json")}
    (two / "t.jsonl").unlink()
    with cluster.ray_executor(place(two), Nodes(), said.append) as executor:
        study.run_study(cells[:2], two / "t.jsonl", place(two), said.append, executor)
        assert executor.sent == 0
    assert {path: path.stat().st_mtime_ns for path in two.glob("runs/*/summary.json")} == before


@with_ray
@untidy
@pytest.mark.slow
def test_nodes_that_share_no_folder_get_the_files_that_runs_name(
    config: Configure, body: Callable[..., Backbone], tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    save(body(weights="random", seed=5), Path("files/body.safetensors"))
    named = cell(config(weights="files/body.safetensors"), "named")
    with cluster.ray_executor(place(tmp_path), Nodes(), print) as executor:
        next((tmp_path / "runs").glob(".cluster-*")).unlink()
        records = study.run_study([named], tmp_path / "t.jsonl", place(tmp_path), print, executor)
    assert len(records) == 4
    assert not list(tmp_path.glob("runs/*/checkpoint"))
    alone = study.run_study([named], tmp_path / "one" / "t.jsonl", place(tmp_path / "one"), print)
    assert [lasting(r.summary) for r in records] == [lasting(r.summary) for r in alone]
    assert all(r.validation and r.training for r in records)


@with_ray
@untidy
@pytest.mark.slow
def test_a_node_killed_in_mid_run_costs_no_run(config: Configure, tmp_path: Path, nodes: Any) -> None:
    long = {"steps": 2000, "eval_every": 40, "eval_examples": 8}
    cells = [cell(config(), "short"), cell(config(**long), "a"), cell(config(weights="random", **long), "b")]
    file, said = tmp_path / "t.jsonl", []
    study.run_study(cells[:1], file, place(tmp_path), print)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/summary.json")}

    def begun() -> bool:
        runs = [config for each in cells[1:] for config in each.sweep.missing({})]
        return all(RunFolder(tmp_path / "runs", config).saved_steps() for config in runs)

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not begun() and time.monotonic() < deadline:
            time.sleep(0.1)
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    with cluster.ray_executor(place(tmp_path), Nodes(), said.append) as executor:
        records = study.run_study(cells, file, place(tmp_path), said.append, executor)
    killer.join()
    assert len({r.run_id for r in records}) == len(records) == 12
    assert {r.summary["status"] for r in records} == {"completed"}
    assert len(file.read_text().splitlines()) == 12
    assert {path: path.stat().st_mtime_ns for path in before} == before
    starts = {
        r.run_id: [e["step"] for e in events(tmp_path / "runs", r.run_id) if e["event"] == "start"] for r in records
    }
    # the lost pack went on from its last state, the other one did not begin again
    assert sorted(map(len, starts.values())) == [1] * 8 + [2] * 4
    assert all(steps[1] > 0 for steps in starts.values() if len(steps) == 2)


def events(folder: Path, run_id: str) -> list[dict[str, Any]]:
    lines = (folder / run_id / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@with_ray
@pytest.mark.slow
def test_interrupted_it_goes_on(
    run: Run, bodies: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(
        f"""
        task = "bit-xor"
        backbone = "{bodies["bert"]}"
        steps = [4, 1500]
        eval_every = 30
        eval_examples = 8
        batch_size = 2
        task_options = {{ n = 2 }}
        """
    )
    words = ["grid", "mine.toml", "--ray", "local", "--device", "cpu"]
    command = [sys.executable, "-m", "icecore", *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    started = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    runs, deadline = tmp_path / "results" / "runs", time.monotonic() + 150
    while not (list(runs.glob("*/summary.json")) and list(runs.glob("*/checkpoint/step_*.safetensors"))):
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does, to all that was started in it
    _, shown = started.communicate(timeout=60)
    assert started.returncode == 130, shown
    assert "interrupted; the same command goes on from the last state" in shown
    assert "Traceback" not in shown
    assert not list(runs.glob(".cluster-*"))
    (done,) = runs.glob("*/summary.json")
    before = done.stat().st_mtime_ns
    # once whoever trained is gone, the same command, with Ray or without, finishes the rest from its state
    assert run(*words[:2], "--device", "cpu", "--out", runs.parent, "--quiet").code == 0
    assert done.stat().st_mtime_ns == before
    summaries = [json.loads(path.read_text()) for path in runs.glob("*/summary.json")]
    assert sorted(s["steps_done"] for s in summaries) == [4, 1500]
    (starts,) = (
        [e["step"] for e in events(runs, s["run_id"]) if e["event"] == "start"]
        for s in summaries
        if s["steps_done"] == 1500
    )
    assert [step > 0 for step in starts] == [False, True]


class Nowhere:
    """A Ray that finds no cluster."""

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **options: Any) -> None:
        raise ConnectionError("timed out")

    def shutdown(self) -> None:
        pass


def test_no_cluster_at_an_address_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_ray", Nowhere)
    message = r"--ray head:1: no cluster there \(timed out\); --ray local starts one on this machine"
    with pytest.raises(UserError, match=message), cluster.ray_executor(place(tmp_path), Nodes("head:1"), print):
        pass
