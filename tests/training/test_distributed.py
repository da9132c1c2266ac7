"""Several processes train as one: the same runs and files, even if one is killed or another number continues."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from commandline import Run
from icecore.backbones import Backbone
from icecore.core.config import ROLES, RunConfig
from icecore.core.errors import ConfigError
from icecore.experiments import sweep
from icecore.model.program import Program
from icecore.tasks.task import Batch
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.distributed import World, agree_on_store_prefix
from icecore.training.loop import Pack
from icecore.training.run_summary import BEHIND, RunSummary
from interruption import Killed, interrupt

Configure = Callable[..., RunConfig]
LISTOPS = {"train": 60, "val": 21, "test": 23, "shortest": 5, "longest": 20}


@dataclass(frozen=True)
class Job:
    """Runs that one process and two of them train."""

    configs: list[RunConfig]
    shard: bool = False
    micro_batch: int | None = None
    begun: bool = False
    race: bool = False


def torchrun(*words: object, processes: int = 2, restarts: int = 0) -> list[str]:
    options = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    return [sys.executable, "-m", "torch.distributed.run", *options, *map(str, words)]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def jobs(bodies: Mapping[str, str]) -> Mapping[str, Job]:
    def config(**changes: Any) -> RunConfig:
        few = {"steps": 12, "batch_size": 5, "lr": 1e-2, "eval_every": 4, "backbone": bodies["bert"]}
        return RunConfig(**{"task": "bit-xor", "task_options": {"n": 2}, **few, **changes})

    trees = config(task="listops", task_options=LISTOPS, dropout=0.1)
    few: dict[str, Any] = {"steps": 300, "batch_size": 4, "eval_every": 25, "eval_examples": 8, "test_examples": 8}
    by_command = sweep.make_config("bit-xor", device="cpu", backbone=bodies["bert"], task_options={"n": 2}, **few)
    return {
        "packed": Job(sweep.expand_sweep(config(dropout=0.1), [1e-3, 1e-2], [0, 1])),
        "lengths": Job(sweep.expand_sweep(trees, [1e-2], [0, 1]), micro_batch=2),
        "stopping": Job(sweep.expand_sweep(config(patience=1, eval_every=2), [1e-4, 1e-1])),
        "racing": Job(sweep.expand_sweep(config(eval_every=1), [1e-5, 1e-4, 1e-1, 1e-2]), race=True),
        "whole body": Job([config(train_roles=tuple(ROLES), lr=1e-3)]),
        "features": Job([config(task="listops", task_options=LISTOPS, train_roles=("output",), steps=20)]),
        "resumed": Job(sweep.expand_sweep(config(dropout=0.1, steps=16), [1e-3, 1e-2]), begun=True),
        "divided": Job(sweep.expand_sweep(config(dropout=0.1), [1e-3, 1e-2]), shard=True),
        "divided lengths": Job([trees], shard=True, micro_batch=1),
        "divided causal": Job([config(backbone=bodies["gpt2"])], shard=True),
        "command": Job([by_command]),
    }


@pytest.fixture(scope="module")
def outcomes(jobs: Mapping[str, Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The jobs trained by one process (in `one`) and by two (in `two`), which continue what one process began."""
    folder = tmp_path_factory.mktemp("processes")
    for name, job in jobs.items():
        if job.begun:
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, Pack, "validate", 2)
                with pytest.raises(Killed):
                    sweep.train_runs(job.configs, ExecutionContext(folder / "two" / name, device="cpu"))
            assert RunFolder(folder / "two" / name, job.configs[0]).saved_steps() == [8]
    described = [
        {
            "configs": [config.to_json() for config in job.configs],
            "out": str(folder / "two" / name),
            "shard": job.shard,
            "micro_batch": job.micro_batch,
            "race": job.race,
        }
        for name, job in jobs.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(described))
    command = torchrun(Path(__file__).with_name("processes.py"), folder / "jobs.json")
    errors = folder / "errors.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=file)
    try:
        # this process trains its part while the other two are still importing
        for name, job in jobs.items():
            options: dict[str, Any] = {"micro_batch": job.micro_batch, "race": job.race}
            context = ExecutionContext(folder / "one" / name, device="cpu", **options)
            sweep.train_runs(job.configs, context)
        assert process.wait(timeout=300) == 0, errors.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return folder


NAMES = (
    *("packed", "lengths", "stopping", "racing", "whole body", "features", "resumed"),
    *("divided", "divided lengths", "divided causal"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name: str, jobs: Mapping[str, Job], outcomes: Path) -> None:
    for config in jobs[name].configs:
        one, two = (RunFolder(outcomes / count / name, config) for count in ("one", "two"))
        summary = two.summary()
        assert summary is not None
        assert comparable(one.summary()) == comparable(summary)
        if summary.status == BEHIND:
            continue
        expected, tensors = (Program.load(folder.program_path).tensors for folder in (one, two))
        assert tensors.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(
                tensors[key], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )
        losses = [[e["loss"] for e in folder.events() if e["event"] == "train"] for folder in (one, two)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        assert [e["step"] for e in two.events() if e["event"] == "end"] == [summary.steps_done]
        assert not two.saved_steps()


def comparable(summary: RunSummary | None) -> dict[str, Any]:
    assert summary is not None
    times = ("seconds", "seconds_share", "steps_per_second", "device")
    return {key: value for key, value in summary.to_json().items() if key not in times}


@pytest.mark.slow
def test_processes_stop_the_same_rates_of_a_race(jobs: Mapping[str, Job], outcomes: Path) -> None:
    summaries = [RunFolder(outcomes / "two" / "racing", config).summary() for config in jobs["racing"].configs]
    assert sorted(summary.steps_done for summary in summaries if summary) == [2, 3, 8, 12]


@pytest.mark.slow
def test_all_processes_know_the_result(jobs: Mapping[str, Job], outcomes: Path) -> None:
    for name, job in jobs.items():
        summaries = [json.loads((outcomes / "two" / name / f"summaries_{rank}.json").read_text()) for rank in (0, 1)]
        assert summaries[0] == summaries[1]
        assert [summary["run_id"] for summary in summaries[0]] == [config.run_id for config in job.configs]


@pytest.mark.slow
def test_processes_continue_a_run_that_one_process_began(jobs: Mapping[str, Job], outcomes: Path) -> None:
    for config in jobs["resumed"].configs:
        text = RunFolder(outcomes / "two" / "resumed", config).events_path.read_text()
        assert re.findall(r'"event": "start", "step": (\d+)', text) == ["0", "8"]


@pytest.mark.slow
def test_each_process_holds_a_part_of_a_divided_body(
    jobs: Mapping[str, Job], outcomes: Path, body: Callable[..., Backbone]
) -> None:
    local = [json.loads((outcomes / "two" / "divided" / f"local_numbers_{rank}.json").read_text()) for rank in (0, 1)]
    whole = sum(parameter.numel() for parameter in body().parameters())
    norms = sum(p.numel() for norm in body().norms().values() for p in norm.parameters())
    assert sum(local) == whole + norms  # norms lie in both
    assert max(local) < 0.6 * whole


@pytest.mark.slow
def test_a_killed_process_costs_the_steps_since_the_last_state(
    jobs: Mapping[str, Job], outcomes: Path, tmp_path: Path
) -> None:
    """torchrun stops the other process and restarts both; the result equals that of an unbroken run to the bit."""
    (config,) = jobs["command"].configs
    words = ["--task-option", "n=2", "--steps", config.steps, "--batch-size", config.batch_size, "--device", "cpu"]
    words += ["--eval-every", config.eval_every, "--eval-examples", config.eval_examples, "--test-examples", 8]
    words += ["--backbone", config.backbone, "--quiet", "--out", tmp_path]
    command = torchrun("-m", "icecore", "train", "bit-xor", *words, restarts=2)
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        kill_one_after_a_state(process.pid, tmp_path)
        assert process.wait(timeout=300) == 0
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    broken, unbroken = RunFolder(tmp_path, config), RunFolder(outcomes / "two" / "command", config)
    programs = [Program.load(folder.program_path).tensors for folder in (broken, unbroken)]
    assert programs[0].keys() == programs[1].keys()
    assert all(torch.equal(programs[0][key], tensor) for key, tensor in programs[1].items())
    starts = [int(step) for step in re.findall(r'"event": "start", "step": (\d+)', broken.events_path.read_text())]
    assert len(starts) == 2
    assert starts[1] >= config.eval_every
    assert starts[1] % config.eval_every == 0


def kill_one_after_a_state(agent: int, out: Path) -> None:
    """Send SIGKILL to the second process of torchrun, which is `agent`, as soon as there is a saved state."""
    deadline = time.monotonic() + 200
    while not list(out.glob("*/checkpoint/step_*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    ranks = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in workers}
    os.kill(int(next(pid for pid, variables in ranks.items() if b"\0RANK=1\0" in variables)), signal.SIGKILL)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_start_ignores_the_answers_of_earlier_ones(late: int) -> None:
    """The processes wait for a late one, and none takes an answer that an earlier start left in the store."""
    shared = TCPStore("127.0.0.1", 0, is_master=True)

    def start(rank: int) -> str:
        return agree_on_store_prefix(TCPStore("127.0.0.1", shared.port, is_master=False), rank, 3)

    names: list[str] = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as processes:
            early = [processes.submit(start, rank) for rank in range(3) if rank != late]
            time.sleep(0.1)
            assert not early[0].done()
            ends = [*early, processes.submit(start, late)]
            (name,) = {end.result(timeout=20) for end in ends}
        names.append(name)
    assert len(set(names)) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 9, 1, 4, 8, 2, 6, 7, 5, 9, 9, 1, 1, 2])])
def test_every_row_has_one_process(size: int, lengths: Tensor | None) -> None:
    batch = Batch(torch.arange(14)[:, None], torch.arange(14), lengths)
    shares = [World(rank, size).share(batch, runs=2) for rank in range(size)]
    rows = torch.cat([share.targets for share, _ in shares])
    assert sorted(rows.tolist()) == list(range(14))
    for share, places in shares:
        assert torch.equal(batch.targets[places], share.targets)
        first, second = share.targets.view(2, -1)
        assert (first < 7).all()
        assert (second >= 7).all()
    if lengths is not None:
        tokens = [int(share.lengths.sum()) for share, _ in shares if share.lengths is not None]
        assert max(tokens) - min(tokens) <= 2 * 9


def test_all_passes_count_if_each_process_has_the_whole_body() -> None:
    assert list(World().in_step([1, 2])) == [(1, True), (2, True)]


def test_one_process_exchanges_nothing() -> None:
    x = torch.ones(2)
    World().sum(x)
    assert x.tolist() == [1, 1]
    assert World().broadcast("word") == "word"
    assert World().device("cuda") == "cuda"


def test_too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert World(3, 4, 1).device("auto") == "cuda:1"
    assert World(3, 4, 1).device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"this machine has 2\. Start as many processes"):
        World(3, 4, 2).device("auto")
    with pytest.raises(ConfigError, match="each process needs a GPU of its own"):
        World(3, 4, 1).device("cuda:0")


def test_more_processes_than_examples(config: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"5 processes cannot share 4 examples per step\. Raise --batch-size"):
        sweep.train_runs([config()], ExecutionContext(tmp_path, device="cpu", world=World(0, 5)))


def test_one_process_cannot_divide_a_body(run: Run, tmp_path: Path, config: Configure) -> None:
    ended = run("train", "bit-xor", "--shard", "--backbone", config().backbone, "--out", tmp_path)
    assert ended.code == 2
    assert "there is only one. Start several with `torchrun --nproc-per-node=N -m icecore train ...`" in ended.err


def test_processes_share_only_training(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = run("grid", tmp_path / "any.toml")
    assert ended.code == 2
    assert "torchrun starts several processes that train together, which only `icecore train` does" in ended.err
