"""Programs of every form on one tiny body, fitted to real data, and a server of them."""

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch

import icecore
from icecore.core.config import RunConfig
from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from serving_samples import Samples, write_data

if TYPE_CHECKING:
    from live_server import LiveServer

#: without the extra `serve`, there is nothing to test
collect_ignore_glob = [] if importlib.util.find_spec("fastapi") else ["test_*.py"]


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, bodies: Mapping[str, str]) -> Samples:
    """Programs after a few steps: what they answer matters, and not whether it is right."""
    folder = tmp_path_factory.mktemp("served")
    data = write_data(tmp_path_factory.mktemp("data"))
    few: dict[str, Any] = {"backbone": bodies["bert"], "lrs": (1e-2,), "steps": 6, "batch_size": 8}
    with torch.random.fork_rng():
        for name, path in data.items():
            icecore.fit(str(path), out=folder / f"{name}.safetensors", device="cpu", **few)
        run = RunConfig(
            task="bit-xor", backbone=bodies["bert"], steps=4, batch_size=4, lr=1e-2, eval_every=4, task_options={"n": 2}
        )
        runs = tmp_path_factory.mktemp("runs")
        sweep.train_runs([run], ExecutionContext(runs, device="cpu"))
    shutil.copy(runs / run.run_id / "program.safetensors", folder / "bits.safetensors")
    return Samples(folder, data)


@pytest.fixture(scope="session")
def server(samples: Samples) -> Iterator["LiveServer"]:
    """A server of all of them, which no test changes."""
    from live_server import running

    with running([samples.folder]) as live:
        yield live
