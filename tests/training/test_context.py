"""The bodies of a command: built and fingerprinted once, shared by frozen runs only, and unchanged by training."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import icecore
from icecore.backbones import Backbone, backbone, build_body_of
from icecore.core.config import ROLES, RunConfig
from icecore.experiments.sweep import expand_sweep, run_sweep
from icecore.model.program import Program
from icecore.training import context as context_module
from icecore.training.checkpoint import RunFolder
from icecore.training.context import BodyCache, ExecutionContext
from icecore.training.distributed import World

Configure = Callable[..., RunConfig]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Backbone]:
    """The bodies that contexts build, in order."""
    bodies: list[Backbone] = []

    def build(config: RunConfig) -> Backbone:
        bodies.append(build_body_of(config))
        return bodies[-1]

    monkeypatch.setattr(context_module, "build_body_of", build)
    return bodies


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """The names of the tensors of each fingerprint that is computed, in order."""
    names: list[frozenset[str]] = []
    compute = backbone.fingerprint

    def record(tensors: dict[str, object]) -> str:
        names.append(frozenset(tensors))
        return compute(tensors)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "fingerprint", record)
    return names


def test_a_training_with_several_rates_builds_and_fingerprints_its_body_once(
    config: Configure, tmp_path: Path, built: list[Backbone], hashed: list[frozenset[str]]
) -> None:
    one = config()
    settings = {"backbone": one.backbone, "task_options": {"n": 2}, "steps": 4, "batch_size": 4, "eval_every": 4}
    settings["precision"] = "fp32"  # other precisions take the fingerprints of all trained roles before they round
    summary = icecore.train("bit-xor", lr=(1e-3, 1e-2, 3e-2), seeds=(0, 1), out=tmp_path, device="cpu", **settings)
    assert len(summary.runs) == 6
    assert len(built) == 1
    assert len(hashed) == 1


def test_packs_of_one_body_share_it(config: Configure, tmp_path: Path, built: list[Backbone]) -> None:
    """Runs that differ in more than rate and seed are separate packs."""
    configs = [config(batch_size=size, lr=lr) for size in (2, 4) for lr in (1e-3, 1e-2)]
    run_sweep(configs, ExecutionContext(tmp_path, device="cpu"))
    assert len(built) == 1


def test_one_body_is_cached_at_a_time(config: Configure, built: list[Backbone]) -> None:
    context = ExecutionContext(device="cpu")
    first = context.backbone(config())
    assert context.backbone(config(lr=1.0, seed=3, steps=99)) is first
    others = [config(layers=1), config(weights="random"), config(precision="bf16"), config("gpt2")]
    for other in others:
        assert context.backbone(other) is built[-1]
        assert context.backbone(other) is built[-1]
    assert len(built) == 1 + len(others)
    assert context.backbone(config()) is not first


def test_a_body_whose_weights_are_trained_is_never_shared(
    config: Configure, tmp_path: Path, built: list[Backbone]
) -> None:
    context = ExecutionContext(tmp_path / "together", device="cpu")
    frozen = context.backbone(config())
    before = backbone.fingerprint(frozen.tensors())
    configs = expand_sweep(config(train_roles=ROLES, steps=4, lr=1e-2), seeds=[0, 1])
    run_sweep(configs, context)
    assert len(built) == 3
    assert len({id(body) for body in built}) == 3
    # the frozen body is still cached, and training did not change it
    assert context.backbone(config()) is frozen
    assert backbone.fingerprint(frozen.tensors()) == before
    assert all(backbone.fingerprint(body.tensors()) != before for body in built[1:])
    run_sweep(configs[1:], ExecutionContext(tmp_path / "alone", device="cpu"))
    together, alone = (
        Program.load(RunFolder(tmp_path / out, configs[1]).program_path).tensors for out in ("together", "alone")
    )
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name], tensor) for name, tensor in alone.items())


def test_frozen_runs_leave_the_shared_body_unchanged(config: Configure, tmp_path: Path) -> None:
    context = ExecutionContext(tmp_path, device="cpu")
    body = context.backbone(config())
    before = backbone.fingerprint(body.tensors())
    run_sweep(expand_sweep(config(steps=4), [1e-2, 3e-2]), context)
    assert context.backbone(config()) is body
    assert backbone.fingerprint(body.tensors()) == before


def test_a_divided_body_is_never_shared(config: Configure, built: list[Backbone]) -> None:
    context = ExecutionContext(device="cpu", world=World(0, 2, 0, shard=True))
    assert context.backbone(config()) is not context.backbone(config())
    assert len(built) == 2


def test_other_processes_get_an_empty_cache(config: Configure, built: list[Backbone]) -> None:
    cache = BodyCache()
    one = config()
    cache.get(one, ExecutionContext(device="cpu").runtime(one))
    copy = pickle.loads(pickle.dumps(cache))
    copy.get(one, ExecutionContext(device="cpu").runtime(one))
    assert len(built) == 2
