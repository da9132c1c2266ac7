"""Cached features change the time and not the result: runs with them equal runs without."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.core.config import RunConfig
from icecore.core.device import Runtime
from icecore.core.errors import StorageError
from icecore.model.fpt import FPT
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import Task, TaskSpec
from icecore.training import feature_cache, loop
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate
from icecore.training.feature_cache import FeatureCache, alone, plan_feature_cache
from icecore.training.loop import Pack, train_pack
from interruption import Killed, interrupt

Configure = Callable[..., RunConfig]
Body = Callable[..., Backbone]
CPU = Runtime(torch.device("cpu"), "fp32")
SEEDS = [0, 1, 0]


class Vectors(StoredTask):
    """Six vectors of three numbers; two marks, read at the last two positions."""

    name = "vectors"

    def __init__(self, mean: bool = False) -> None:
        spec = {"read_out": "mean"} if mean else {"read_positions": 2}
        self.spec = TaskSpec("continuous", 6, 3, 2, **spec)  # type: ignore[arg-type]
        splits = {}
        for seed, (split, count) in enumerate({"train": 40, "val": 11, "test": 13}.items()):
            inputs = torch.randn(count, 6, 3, generator=torch.Generator().manual_seed(seed))
            marks = (inputs[:, -2:, 0] > 0).long()
            splits[split] = Examples(inputs, marks[:, 0] if mean else marks)
        super().__init__(splits)

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        return inputs


@pytest.fixture(params=["positions", "mean", "ragged"])
def task(request: pytest.FixtureRequest, ragged: StoredTask) -> StoredTask:
    return ragged if request.param == "ragged" else Vectors(request.param == "mean")


@pytest.fixture
def heads(config: Configure) -> Callable[..., list[RunConfig]]:
    """Runs that train output layers, of two seeds and three learning rates, two epochs of 40 examples long."""

    def build(**changes: Any) -> list[RunConfig]:
        shared = {"train_roles": ("output",), "steps": 20, "eval_every": 8, "task_options": {}, **changes}
        return [config(lr=lr, seed=s, **shared) for s, lr in zip(SEEDS, (1e-2, 3e-2, 3e-3), strict=True)]

    return build


@pytest.fixture(autouse=True)
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of several passes, the last one of a split shorter."""
    monkeypatch.setattr("icecore.training.evaluation.TOKENS_PER_PASS", {"cpu": 27})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def no_plan(*args: Any) -> None:
    return None


def tensors(out: Path, config: RunConfig) -> dict[str, Tensor]:
    return dict(Program.load(RunFolder(out, config).program_path).tensors)


def events(out: Path, config: RunConfig, kind: str) -> list[dict[str, Any]]:
    return [event for event in RunFolder(out, config).events() if event["event"] == kind]


def same(one: Path, other: Path, configs: list[RunConfig]) -> bool:
    """Whether programs and metrics are equal to the bit."""
    pairs = [[Program.load(RunFolder(out, c).program_path) for out in (one, other)] for c in configs]
    return all(
        a.metrics == b.metrics and all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
        for a, b in pairs
    )


# --- the same results --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "protocol", "runs"),
    [
        ("positions", "fair", 3),
        ("mean", "fair", 1),
        ("ragged", "fair", 1),
        ("ragged", "fair", 3),
        ("ragged", "paper", 3),
    ],
    indirect=["task"],
)
def test_equals_training_through_the_body(
    heads: Callable[..., list[RunConfig]],
    body: Body,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: StoredTask,
    runs: int,
    protocol: str,
) -> None:
    configs = heads(protocol=protocol)[:runs]
    task.unmasked = protocol == "paper"
    with_features = train_pack(task, body(), configs, ExecutionContext(tmp_path / "kept", device="cpu"))
    monkeypatch.setattr(loop, "plan_feature_cache", no_plan)
    without = train_pack(task, body(), configs, ExecutionContext(tmp_path / "fresh", device="cpu"))
    for each, a, b in zip(configs, with_features, without, strict=True):
        assert events(tmp_path / "kept", each, "features")
        for kind, key in (("train", "loss"), ("validation", "metric")):
            kept, fresh = ([e[key] for e in events(tmp_path / out, each, kind)] for out in ("kept", "fresh"))
            assert kept == pytest.approx(fresh, rel=1e-4)
        assert a.test_metrics == b.test_metrics
        assert (a.train_metric, a.val_metric) == (b.train_metric, b.val_metric)
        kept, fresh = tensors(tmp_path / "kept", each), tensors(tmp_path / "fresh", each)
        for name in fresh:
            torch.testing.assert_close(kept[name], fresh[name], rtol=1e-3, atol=1e-4)


def test_equals_a_plain_torch_loop(
    heads: Callable[..., list[RunConfig]], body: Body, tmp_path: Path, ragged: StoredTask
) -> None:
    """An independent oracle: one example at a time through the body, torch's own linear layer, Adam, clipping."""
    each = heads(eval_every=20)[0]
    train_pack(ragged, body(), [each], ExecutionContext(tmp_path, device="cpu"))
    model = FPT(ragged.spec, body(), [each.seed], model_settings(each))
    start = model.programs()[0]
    layer = torch.nn.Linear(16, 7)
    layer.weight.data, layer.bias.data = start["output.layers.0.weight"].t(), start["output.layers.0.bias"]
    with torch.no_grad():
        read = torch.cat([model.features(batch)[:, 0] for batch in ragged.batches("train", 1)])
    adam = torch.optim.Adam(layer.parameters())
    for step in range(each.steps):
        adam.param_groups[0]["lr"] = each.lr_at(step)
        index = ragged.train_index([each.seed], step, each.batch_size)
        assert index is not None
        adam.zero_grad()
        torch.nn.functional.cross_entropy(layer(read[index]), ragged.splits["train"].targets[index]).backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), each.clip)
        adam.step()
    trained = tensors(tmp_path, each)
    torch.testing.assert_close(trained["output.layers.0.weight"], layer.weight.t(), rtol=1e-3, atol=1e-5)


def test_train_index_names_the_rows_of_train_batch(task: StoredTask) -> None:
    for step in (0, 9, 10):  # the first, the last and the next epoch's first
        batch, index = task.train_batch(SEEDS, step, 4), task.train_index(SEEDS, step, 4)
        assert torch.equal(task.splits["train"].targets[index], batch.targets)
        stored = task.splits["train"].inputs[index]
        assert torch.equal(stored[:, : batch.tokens.shape[1]], batch.tokens)


def kept_features(task: StoredTask, body: Body, configs: list[RunConfig], out: Path, **settings: Any) -> FeatureCache:
    model = FPT(task.spec, body(), [c.seed for c in configs], model_settings(configs[0]))
    cache = plan_feature_cache(model, task, configs, model.programs(), "val")
    assert cache is not None
    cache.keep([c.seed for c in configs], out, **settings)
    return cache


def test_features_are_a_function_of_the_seed(
    heads: Callable[..., list[RunConfig]], body: Body, tmp_path: Path, task: StoredTask
) -> None:
    """Runs of one seed share features; which runs are beside, and where the features lie, changes no bit."""
    configs = heads()
    packed = kept_features(task, body, configs, tmp_path).kept
    alone = kept_features(task, body, configs[1:2], tmp_path).kept
    filed = kept_features(task, body, configs, tmp_path, memory=0).kept
    assert packed is not None
    assert alone is not None
    assert filed is not None
    n = task.spec.read_positions
    assert packed.rows.shape == (40 + 11, 2, n, 16)
    assert list(packed.seeds) == [0, 1]
    assert torch.equal(packed.rows[:, 1:], alone.rows)
    assert torch.equal(packed.rows, filed.rows)
    assert not torch.equal(packed.rows[:, 0], packed.rows[:, 1])


@pytest.mark.parametrize(("split", "limit"), [("train", 9), ("val", 9), ("val", None), ("test", None)])
def test_scores_are_the_same_kept_and_fresh(
    heads: Callable[..., list[RunConfig]],
    body: Body,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: StoredTask,
    split: str,
    limit: int | None,
) -> None:
    # a metric that every bit of the logits changes
    monkeypatch.setattr(task, "metric", lambda logits, targets: logits.double().flatten(1).sum(1))
    cache = kept_features(task, body, heads(), tmp_path)
    kept = cache.evaluate(split, limit, SEEDS)[0].tolist()
    before = cache.model.programs()
    cache.kept = None
    assert cache.evaluate(split, limit, SEEDS)[0].tolist() == kept
    assert kept == pytest.approx(evaluate(cache.model, task, split, limit).tolist(), rel=1e-4)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(before, cache.model.programs(), strict=True) for name in a)


# --- the body rests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, 0])
def test_steps_and_validations_do_not_touch_the_body(
    heads: Callable[..., list[RunConfig]],
    body: Body,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: StoredTask,
    memory: int | None,
) -> None:
    pack = Pack(task, body(), heads(), ExecutionContext(tmp_path, device="cpu", feature_memory=memory))
    pack.train_step()
    monkeypatch.setattr(FPT, "features", None)
    pack.step = pack.schedule.position = 1
    pack.run()
    assert pack.step == 20


# --- resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (FPT, "features", 5),
        (Pack, "train_step", 13),
        (RunFolder, "save_state", 4),
        (Pack, "_score", 5),
    ],
)
def test_resumed_equals_unbroken(
    heads: Callable[..., list[RunConfig]],
    body: Body,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ragged: StoredTask,
    owner: Any,
    name: str,
    call: int,
) -> None:
    # the run of seed 1 stops by itself at step 8: one resumed later keeps features of seed 0 alone
    configs = heads(stop_at=0.999)
    score = Pack._score

    def early(pack: Pack, split: str, limit: int | None = None) -> tuple[list[float], list[float]]:
        metrics, losses = score(pack, split, limit)
        known = zip(pack.rows, metrics, strict=True)
        return [1.0 if m.config.seed == 1 and split == "val" else x for m, x in known], losses

    monkeypatch.setattr(Pack, "_score", early)
    train_pack(ragged, body(), configs, ExecutionContext(tmp_path / "unbroken", device="cpu"))
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, call)
        with pytest.raises(Killed):
            train_pack(ragged, body(), configs, ExecutionContext(tmp_path / "broken", device="cpu"))
    train_pack(ragged, body(), configs, ExecutionContext(tmp_path / "broken", device="cpu"))
    assert same(tmp_path / "unbroken", tmp_path / "broken", configs)
    if name == "train_step":
        assert [e["seeds"] for e in events(tmp_path / "broken", configs[0], "features")] == [2, 1]


# --- memory and disk ---------------------------------------------------------------------------------


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the temporary files made."""
    made: list[str] = []

    def recorded(dir: Path) -> Any:
        file = tempfile.NamedTemporaryFile(dir=dir)  # noqa: SIM115 (closed by its user)
        made.append(file.name)
        return file

    monkeypatch.setattr(feature_cache.tempfile, "TemporaryFile", recorded)
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_budget_decides_where_not_what(
    heads: Callable[..., list[RunConfig]],
    body: Body,
    tmp_path: Path,
    ragged: StoredTask,
    files: list[str],
    precision: str,
) -> None:
    configs = heads(precision=precision)
    size = (40 + 11) * 2 * 16 * (4 if precision == "fp32" else 2)
    for memory, where in ((size, "memory"), (size - 1, "file")):
        train_pack(ragged, body(), configs, ExecutionContext(tmp_path / where, device="cpu", feature_memory=memory))
        logged = events(tmp_path / where, configs[2], "features")
        assert [(e["where"], e["bytes"], e["examples"], e["seeds"]) for e in logged] == [(where, size, 51, 2)]
        assert len(files) == (where == "file")
    assert same(tmp_path / "memory", tmp_path / "file", configs)
    assert [Path(name).parent for name in files] == [tmp_path / "file"]
    assert not [path for path in tmp_path.rglob("*") if "tmp" in path.name]


def test_a_full_disk_is_one_clear_message(
    heads: Callable[..., list[RunConfig]],
    body: Body,
    tmp_path: Path,
    ragged: StoredTask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(dir: Path) -> Any:
        return os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0)

    monkeypatch.setattr(feature_cache.tempfile, "TemporaryFile", full)
    with pytest.raises(
        StorageError, match=r"No space left on device.*The features need 0 MiB there. Free the space, or name"
    ):
        train_pack(ragged, body(), heads(), ExecutionContext(tmp_path, device="cpu", feature_memory=0))
    monkeypatch.undo()
    summaries = train_pack(ragged, body(), heads(), ExecutionContext(tmp_path, device="cpu"))
    assert [s.status for s in summaries] == ["completed"] * 3


# --- when not ----------------------------------------------------------------------------------------


class Turned(Vectors):
    """Examples that are changed in training."""

    augment_draws = 1


@pytest.mark.parametrize(
    ("changes", "task_of"),
    [
        ({"dropout": 0.1}, Vectors),
        ({"train_roles": ("output", "norm")}, Vectors),
        ({"train_roles": ("input", "output")}, Vectors),
        ({"train_roles": ("norm",)}, Vectors),
        ({}, Turned),
        ({}, lambda: BitXor(2)),
        ({"steps": 6, "eval_every": 6}, Vectors),  # 3 runs of 6 steps and 4 rows: 72 of 2 x 40 passes
    ],
)
def test_not_where_features_change_or_do_not_pay(
    heads: Callable[..., list[RunConfig]],
    body: Body,
    tmp_path: Path,
    changes: dict[str, Any],
    task_of: Callable[[], Task],
) -> None:
    task, configs = task_of(), heads(**changes)
    pack = Pack(task, body(), configs, ExecutionContext(tmp_path, device="cpu"))
    assert pack.features is None
    pack.train_step()


def test_not_without_a_body(heads: Callable[..., list[RunConfig]], tmp_path: Path) -> None:
    configs = heads(backbone="none", weights="random")
    pack = Pack(
        Vectors(), build_backbone(BodyRequest("none", "random")), configs, ExecutionContext(tmp_path, device="cpu")
    )
    assert pack.features is None


def test_not_before_they_are_kept(
    heads: Callable[..., list[RunConfig]], body: Body, tmp_path: Path, ragged: StoredTask
) -> None:
    cache = kept_features(ragged, body, heads(), tmp_path)
    cache.kept = None
    with pytest.raises(RuntimeError, match=r"keep comes before FeatureCache\.losses"):
        cache.losses(SEEDS, 0, 4)


def test_a_model_is_itself_again_after_being_alone(body: Body, ragged: StoredTask) -> None:
    model = FPT(ragged.spec, body(), SEEDS)
    before, pointers = model.programs(), {n: p.data_ptr() for n, p in model.program().items()}

    def stopped() -> None:
        with alone(model, before[1]):
            assert model.runs == 1
            raise Killed

    with pytest.raises(Killed):
        stopped()
    assert {n: p.data_ptr() for n, p in model.program().items()} == pointers
    assert model.runs == 3
