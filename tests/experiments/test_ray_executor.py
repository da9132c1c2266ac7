"""Ray: nodes give the same runs as this process, a lost node costs no run, and finished runs stay unchanged."""

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
from icecore.experiments import ray_executor as ray_module
from icecore.experiments import sweep
from icecore.experiments.ray_executor import Job, RayExecutor, RayOptions, ray_executor, run_job, split_packs
from icecore.experiments.results import CellKey, read_records
from icecore.experiments.study import CellPlan, run_study
from icecore.model.program import Program
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import BEHIND, RunSummary

Configure = Callable[..., RunConfig]
#: keys of a summary in which two trainings of the same run may differ
CIRCUMSTANTIAL_KEYS = {"seconds", "seconds_share", "steps_per_second", "packed_runs", "device"}

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'icecore[ray]'")
#: Ray leaves files and sockets of its processes to the garbage collector
untidy = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def cell(config: RunConfig, row: str, lrs: Sequence[float] = (1e-2, 3e-2), **stages: Any) -> CellPlan:
    return CellPlan(
        CellKey("t", row, "bit-xor", "cpu", "tiny"), sweep.Sweep(config, lrs, (0, 1), **stages), f"of {row}"
    )


def context(folder: Path, **changes: Any) -> ExecutionContext:
    return ExecutionContext(folder / "runs", device="cpu", **changes)


def comparable(summary: RunSummary) -> dict[str, Any]:
    return {key: value for key, value in summary.to_json().items() if key not in CIRCUMSTANTIAL_KEYS}


def program(folder: Path, run_id: str) -> Mapping[str, torch.Tensor]:
    return Program.load(folder / "runs" / run_id / "program.safetensors").tensors


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that a node sets for its packs are restored after the test."""
    monkeypatch.setenv(MEMORY_SHARE_VARIABLE, "1")


# --- without Ray -------------------------------------------------------------------------------------


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
def test_packs_are_split_evenly_and_completely(packs: Sequence[Any], slots: int, sizes: list[list[int]]) -> None:
    parts_of_packs = split_packs(packs, slots)
    assert [[len(part) for part in parts] for parts in parts_of_packs] == sizes
    assert [set().union(*parts) for parts in parts_of_packs] == [set(pack) for pack in packs]


def test_a_node_that_does_not_share_the_folder_returns_the_files_of_its_runs(config: Configure, tmp_path: Path) -> None:
    configs = sweep.expand_sweep(config(), [1e-2, 3e-2])
    result = run_job(Job(configs, context(tmp_path), tmp_path, ".marker"))
    assert float(os.environ[MEMORY_SHARE_VARIABLE]) == 1 / (os.cpu_count() or 1)
    assert not (tmp_path / "runs").exists()
    assert result.folders.keys() == {c.run_id for c in configs}
    assert not isinstance(result.outcome, UserError)
    assert len(result.outcome) == 2
    for summary in result.outcome:
        files = result.folders[summary.run_id]
        assert list(files) == ["config.json", "events.jsonl", "program.safetensors", "summary.json"]
        assert json.loads(files["summary.json"]) == summary.to_json()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".marker").touch()
    assert run_job(Job(configs, context(tmp_path), tmp_path, ".marker")).folders == {}
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 2


def test_an_error_that_the_user_can_fix_is_returned(config: Configure, tmp_path: Path) -> None:
    job = Job([config(backbone="gpt2")], context(tmp_path), tmp_path, ".marker")
    assert isinstance(run_job(job).outcome, WeightsError)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".marker").touch()
    job = Job([config()], context(tmp_path, wait=False), tmp_path, ".marker")
    with RunFolder(tmp_path / "runs", config()).lock():
        assert isinstance(run_job(job).outcome, BusyError)


class Lossy:
    """A stand-in for Ray that loses every task."""

    class exceptions:  # noqa: N801 (Ray's name)
        RayError = type("RayError", (Exception,), {})
        RayTaskError = type("RayTaskError", (RayError,), {})

    def __init__(self, *nodes: Mapping[str, float]) -> None:
        self.resources = nodes
        self.jobs: list[Job] = []
        self.options: dict[str, Any] = {}

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
        return [*({"Alive": True, "Resources": node} for node in self.resources), dead]

    def cluster_resources(self) -> Mapping[str, float]:
        return {"GPU": sum(node.get("GPU", 0.0) for node in self.resources)}

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.options = options
        return lambda function: SimpleNamespace(remote=self.take)

    def take(self, job: Job) -> int:
        self.jobs.append(job)
        return len(self.jobs)

    def wait(self, tasks: list[Any], num_returns: int) -> Any:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task: Any) -> Any:
        raise self.exceptions.RayError("The node died.\nand much more")


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lossy]:
    def build(*nodes: Mapping[str, float]) -> Lossy:
        ray = Lossy(*nodes)
        monkeypatch.setattr(ray_module, "_ray", lambda: ray)
        return ray

    return build


def test_a_pack_that_is_lost_too_often_is_recorded_as_missing(
    config: Configure, tmp_path: Path, lossy: Callable[..., Lossy]
) -> None:
    lossy({"CPU": 2.0})
    sweep.train_runs(sweep.expand_sweep(config(weights="random"), [1e-2, 3e-2], [0, 1]), context(tmp_path))
    messages: list[str] = []
    executor = RayExecutor(context(tmp_path), RayOptions(), ".marker", messages.append)
    cells = [cell(config(), "lost"), cell(config(weights="random"), "finished")]
    lost, *finished = run_study(cells, tmp_path / "t.jsonl", context(tmp_path), messages.append, executor)
    assert lost.missing == "The pack was lost 4 times (The node died.). Give the command again to continue it."
    assert [r.key.row for r in finished] == ["finished"] * 4
    assert messages[0] == "pack 1 of 2: lost, bit-xor, 2 runs, lost"


@pytest.mark.parametrize(
    ("nodes", "options", "device", "expected"),
    [
        ([{"CPU": 8.0}], RayOptions(cpus=3), "auto", (2, 0.0, "cpu")),
        ([{"CPU": 3.0}, {"CPU": 5.0}], RayOptions(cpus=2), "cpu", (3, 0.0, "cpu")),
        ([{"CPU": 8.0, "GPU": 2.0}], RayOptions(), "auto", (2, 1.0, "cuda")),
        ([{"CPU": 8.0, "GPU": 2.0}], RayOptions(), "cpu", (8, 0.0, "cpu")),
        ([{"CPU": 8.0, "GPU": 1.0}], RayOptions(gpus=0.1), "cuda:1", (8, 0.1, "cuda")),
        ([{"CPU": 16.0, "GPU": 1.0}], RayOptions(gpus=0.1), "auto", (10, 0.1, "cuda")),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}], RayOptions(gpus=0), "auto", (12, 0.0, "cpu")),
    ],
)
def test_slots_and_device_follow_from_the_resources_of_a_pack(
    tmp_path: Path,
    lossy: Callable[..., Lossy],
    nodes: Sequence[Mapping[str, float]],
    options: RayOptions,
    device: str,
    expected: tuple[int, float, str],
) -> None:
    ray = lossy(*nodes)
    executor = RayExecutor(ExecutionContext(tmp_path, device=device), options, ".marker", print)
    assert (executor.slots, ray.options["num_gpus"], executor.template.context.device) == expected
    assert ray.options["num_cpus"] == executor.template.threads == options.cpus


def test_a_pack_that_fits_no_node_is_refused(tmp_path: Path, lossy: Callable[..., Lossy]) -> None:
    lossy({"CPU": 2.0}, {"CPU": 4.0})
    with pytest.raises(ConfigError, match=r"--cpus 5: No node .* The largest has 4 CPUs and 0 GPUs"):
        RayExecutor(context(tmp_path), RayOptions(cpus=5), ".marker", print)
    with pytest.raises(ConfigError, match=r"--cpus 1 --gpus 0\.5: No node"):
        RayExecutor(context(tmp_path), RayOptions(gpus=0.5), ".marker", print)


def test_runs_that_started_together_stay_together(
    config: Configure, tmp_path: Path, lossy: Callable[..., Lossy]
) -> None:
    ray = lossy({"CPU": 8.0})
    configs = sweep.expand_sweep(config(), [1e-2, 3e-2], [0, 1])
    for started in configs[:2]:
        folder = RunFolder(tmp_path / "runs", started)
        folder.open()
        folder.log([{"event": "start", "step": 0, "pack": [c.run_id for c in configs[:2]]}])
    executor = RayExecutor(context(tmp_path, data_dir="data"), RayOptions(), ".marker", print)
    executor.submit(configs, "title", wait=False)
    executor.next_result()
    assert [list(job.configs) for job in ray.jobs] == [configs[:2], configs[2:3], configs[3:]]
    assert Path(ray.jobs[0].context.data_dir or "").is_absolute()


def test_a_race_is_not_split_and_its_runs_are_done_for_the_same_race_only(
    config: Configure, tmp_path: Path, lossy: Callable[..., Lossy]
) -> None:
    configs = sweep.expand_sweep(config(), [1e-2, 3e-2], [0, 1])
    for started in configs[:2]:
        folder = RunFolder(tmp_path / "runs", started)
        folder.open()
        summary = RunSummary(run_id=started.run_id, status=BEHIND, race=tuple(c.run_id for c in configs))
        folder.summary_path.write_text(json.dumps(summary.to_json()))

    def sent(requested: list[RunConfig], race: bool) -> list[list[RunConfig]]:
        ray = lossy({"CPU": 8.0})
        executor = RayExecutor(context(tmp_path, race=race), RayOptions(), ".marker", print)
        executor.submit(requested, "title", wait=False)
        executor.next_result()
        return [list(job.configs) for job in ray.jobs]

    assert sent(configs, race=True) == [configs[2:]]
    assert sent(configs, race=False) == [[each] for each in configs]
    others = sweep.expand_sweep(config(), [1e-2, 3e-2], [0, 1, 2])
    assert sent(others, race=True) == [others]


# --- on clusters -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes on loopback, one processor each, that this process is connected to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ray_module.LOOPBACK_VARIABLE, "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        import ray
        from ray.cluster_utils import Cluster

        common = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=common)
        cluster.add_node(**common)
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@with_ray
@untidy
@pytest.mark.slow
def test_two_nodes_train_the_same_runs_as_one_process(
    config: Configure, tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, messages = tmp_path / "one", tmp_path / "two", []
    cells = [
        cell(config(), "pretrained", staged=True),
        cell(config(weights="random"), "random"),
        cell(config(backbone="gpt2"), "unavailable"),
    ]
    alone = run_study(cells, one / "t.jsonl", context(one), messages.append)
    monkeypatch.chdir(tmp_path)
    with ray_executor(context(Path("two")), RayOptions(), messages.append) as executor:
        assert executor.slots == 2
        assert len(list((two / "runs").glob(".cluster-*"))) == 1
        records = run_study(cells, two / "t.jsonl", context(Path("two")), messages.append, executor)
    assert not list((two / "runs").glob(".cluster-*"))
    assert [r.key for r in records] == [r.key for r in alone]
    assert [comparable(r.summary) for r in records] == [comparable(r.summary) for r in alone]
    assert "hf download openai-community/gpt2" in records[-1].missing
    for record in records[:-1]:
        torch.testing.assert_close(program(two, record.run_id), program(one, record.run_id))
    assert set(map(str, read_records(two / "t.jsonl")[0])) == set(map(str, records))
    assert any("pack 1 of" in line and "runs" in line for line in messages)
    # finished runs are not trained again, with the results or without them
    before = {path: path.stat().st_mtime_ns for path in two.glob("runs/*/summary.json")}
    (two / "t.jsonl").unlink()
    with ray_executor(context(two), RayOptions(), messages.append) as executor:
        run_study(cells[:2], two / "t.jsonl", context(two), messages.append, executor)
        assert executor.started == 0
    assert {path: path.stat().st_mtime_ns for path in two.glob("runs/*/summary.json")} == before


@with_ray
@untidy
@pytest.mark.slow
def test_nodes_without_a_shared_folder_get_the_files_that_runs_name(
    config: Configure, body: Callable[..., Backbone], tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    save(body(weights="random", seed=5), Path("files/body.safetensors"))
    named = cell(config(weights="files/body.safetensors"), "named")
    with ray_executor(context(tmp_path), RayOptions(), print) as executor:
        next((tmp_path / "runs").glob(".cluster-*")).unlink()
        records = run_study([named], tmp_path / "t.jsonl", context(tmp_path), print, executor)
    assert len(records) == 4
    assert not list(tmp_path.glob("runs/*/checkpoint"))
    alone = run_study([named], tmp_path / "one" / "t.jsonl", context(tmp_path / "one"), print)
    assert [comparable(r.summary) for r in records] == [comparable(r.summary) for r in alone]
    assert all(r.validation and r.training for r in records)


@with_ray
@untidy
@pytest.mark.slow
def test_a_killed_node_costs_no_run(config: Configure, tmp_path: Path, nodes: Any) -> None:
    long = {"steps": 2000, "eval_every": 40, "eval_examples": 8}
    cells = [cell(config(), "short"), cell(config(**long), "a"), cell(config(weights="random", **long), "b")]
    file, messages = tmp_path / "t.jsonl", []
    run_study(cells[:1], file, context(tmp_path), print)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/summary.json")}

    def all_started() -> bool:
        runs = [config for each in cells[1:] for config in each.sweep.missing({})]
        return all(RunFolder(tmp_path / "runs", config).saved_steps() for config in runs)

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not all_started() and time.monotonic() < deadline:
            time.sleep(0.1)
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    with ray_executor(context(tmp_path), RayOptions(), messages.append) as executor:
        records = run_study(cells, file, context(tmp_path), messages.append, executor)
    killer.join()
    assert len({r.run_id for r in records}) == len(records) == 12
    assert {r.summary.status for r in records} == {"completed"}
    assert len(file.read_text().splitlines()) == 12
    assert {path: path.stat().st_mtime_ns for path in before} == before
    starts = {
        r.run_id: [e["step"] for e in events(tmp_path / "runs", r.run_id) if e["event"] == "start"] for r in records
    }
    # the lost pack resumed from its last state, and the other one was not restarted
    assert sorted(map(len, starts.values())) == [1] * 8 + [2] * 4
    assert all(steps[1] > 0 for steps in starts.values() if len(steps) == 2)


def events(folder: Path, run_id: str) -> list[dict[str, Any]]:
    lines = (folder / run_id / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@with_ray
@pytest.mark.slow
def test_an_interrupted_grid_continues_from_its_last_state(
    run: Run, bodies: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(
        f"""
        task = "bit-xor"
        backbone = "{bodies["bert"]}"
        steps = [4, 5000]
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
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # tests that a shell started in the background ignore interrupts, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    runs, deadline = tmp_path / "results" / "runs", time.monotonic() + 150
    while not (list(runs.glob("*/summary.json")) and list(runs.glob("*/checkpoint/step_*.safetensors"))):
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does, to all processes started in it
    _, shown = started.communicate(timeout=60)
    assert started.returncode == 130, shown
    assert "Interrupted. The same command continues from the last saved state." in shown
    assert "Traceback" not in shown
    assert not list(runs.glob(".cluster-*"))
    (done,) = runs.glob("*/summary.json")
    before = done.stat().st_mtime_ns
    # without the killed processes, the same command with or without Ray finishes the rest from its last state
    assert run(*words[:2], "--device", "cpu", "--out", runs.parent, "--quiet").code == 0
    assert done.stat().st_mtime_ns == before
    summaries = [json.loads(path.read_text()) for path in runs.glob("*/summary.json")]
    assert sorted(s["steps_done"] for s in summaries) == [4, 5000]
    (starts,) = (
        [e["step"] for e in events(runs, s["run_id"]) if e["event"] == "start"]
        for s in summaries
        if s["steps_done"] == 5000
    )
    assert [step > 0 for step in starts] == [False, True]


class Nowhere:
    """A stand-in for Ray that finds no cluster."""

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **options: Any) -> None:
        raise ConnectionError("timed out")

    def shutdown(self) -> None:
        pass


def test_no_cluster_at_an_address_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_module, "_ray", Nowhere)
    message = r"--ray head:1: There is no cluster at this address \(timed out\). --ray local starts one on this machine"
    with pytest.raises(UserError, match=message), ray_executor(context(tmp_path), RayOptions("head:1"), print):
        pass
