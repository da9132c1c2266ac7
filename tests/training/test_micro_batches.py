"""Micro-batches: splitting a batch changes no result, avoids padding and keeps to the measured memory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.core.config import RunConfig
from icecore.core.device import Runtime, select_runtime
from icecore.model.fpt import FPT
from icecore.model.model_settings import ModelSettings
from icecore.model.program import Program
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import StoredTask
from icecore.tasks.task import Batch
from icecore.training import micro_batches
from icecore.training.context import ExecutionContext
from icecore.training.loop import Pack, train_pack
from icecore.training.micro_batches import kept_bytes, max_runs, row_bytes, split_by_length, tokens_per_pass

Body = Callable[..., Backbone]
Configure = Callable[..., RunConfig]
CPU = Runtime(torch.device("cpu"), "fp32")
SEEDS = [0, 1, 2]


@pytest.fixture
def free_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that cost nothing: no padding is worth avoiding one."""
    monkeypatch.setattr(micro_batches, "PASS_COST", {"cpu": 0})


def lengths_of(*rows: int) -> Batch:
    """Rows of these lengths, each filled with its place from 1 on, padded with 0."""
    T, N = max(rows), len(rows)
    lengths = torch.tensor(rows)
    tokens = torch.arange(1, N + 1)[:, None] * (torch.arange(T) < lengths[:, None])
    return Batch(tokens, torch.arange(N), lengths)


# --- the cut -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("rows", "tokens"), [(None, None), (2, None), (None, 90), (3, 90)])
@pytest.mark.parametrize("cost", [0, 20, 10**6])
def test_a_cut_is_a_partition_within_its_limits(
    monkeypatch: pytest.MonkeyPatch, runs: int, rows: int | None, tokens: int | None, cost: int
) -> None:
    monkeypatch.setattr(micro_batches, "PASS_COST", {"cpu": cost})
    B = 12
    batch = lengths_of(*torch.randint(1, 40, (runs * B,)).tolist())
    assert batch.lengths is not None
    seen = []
    for part, index in split_by_length(batch, runs, rows, tokens):
        places = torch.arange(len(batch))[index]
        b, T = len(part) // runs, part.tokens.shape[1]
        assert torch.equal(places // B, torch.arange(runs).repeat_interleave(b))  # run-major, as many of each
        assert torch.equal(part.targets, places)
        assert torch.equal(part.tokens, batch.tokens[places, :T])
        lengths = batch.lengths[places]
        assert int(lengths.max()) == T
        assert torch.equal(torch.full_like(lengths, T) if part.lengths is None else part.lengths, lengths)
        assert b <= (rows or B)
        assert b == 1 or b * runs * T <= (tokens or 10**6)
        longest = lengths.view(runs, b).sort(descending=True).values.amax(0)
        assert runs * int((T - longest).sum()) <= cost  # what another pass could have saved
        seen += places.tolist()
    assert sorted(seen) == list(range(len(batch)))


def test_rows_join_a_pass_until_their_padding_costs_more_than_another(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = lengths_of(3, 10, 9, 3, 8, 2)
    for cost, expected in ((0, [[1], [2], [4], [0, 3], [5]]), (3, [[1, 2, 4], [0, 3, 5]]), (25, [[0, 1, 2, 3, 4, 5]])):
        monkeypatch.setattr(micro_batches, "PASS_COST", {"cpu": cost})
        assert [sorted(part.targets.tolist()) for part, _ in split_by_length(batch, 1)] == expected


def test_full_rows_go_in_one_pass_in_their_order_and_need_no_mask() -> None:
    batch = lengths_of(4, 4, 4)
    [(part, index)] = split_by_length(batch, 1)
    assert index == slice(None)
    assert part.lengths is None
    assert torch.equal(part.tokens, batch.tokens)
    unlimited = split_by_length(Batch(batch.tokens, batch.targets), 1, rows=2)
    assert [part.targets.tolist() for part, _ in unlimited] == [[0, 1], [2]]


# --- numbers stay ------------------------------------------------------------------------------------


def gradients(model: FPT, task: StoredTask, parts: Iterator[tuple[Batch, Any]], keys: Tensor) -> list[Tensor]:
    """Summed losses of each run, then the gradients, over the passes."""
    model.zero_grad()
    losses = torch.zeros(model.runs)
    for part, index in parts:
        loss = task.loss(model(part, row_keys=keys[index]), part.targets).view(model.runs, -1).sum(1)
        loss.sum().backward()
        losses += loss.detach()
    return [losses, *(p.grad.clone() for p in model.trained().values() if p.grad is not None)]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.usefixtures("free_passes")
def test_losses_and_gradients_are_those_of_one_pass(
    body: Body, ragged: StoredTask, family: str, dropout: float
) -> None:
    model = FPT(ragged.spec, body(family), SEEDS, ModelSettings(dropout=dropout))
    batch, keys = ragged.train_batch(SEEDS, 0, 8), torch.arange(24) * 7919
    parts = list(split_by_length(batch, 3))
    assert len(parts) > 2
    whole = gradients(model, ragged, iter([(batch, slice(None))]), keys)
    for values, expected in zip(gradients(model, ragged, iter(parts), keys), whole, strict=True):
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_packed_equals_alone_equals_unsorted(
    config: Configure, body: Body, tmp_path: Path, ragged: StoredTask, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    changes: dict[str, Any] = {"task": "ragged", "task_options": {}, "batch_size": 6, "dropout": dropout}
    configs = [config(seed=seed, lr=lr, **changes) for seed, lr in ((0, 1e-2), (1, 1e-3))]

    def programs(place: str, packs: list[list[RunConfig]]) -> list[Program]:
        for pack in packs:
            train_pack(ragged, body(), pack, ExecutionContext(tmp_path / place, device="cpu"))
        return [Program.load(tmp_path / place / each.run_id / "program.safetensors") for each in configs]

    whole = programs("whole", [configs])
    monkeypatch.setattr(micro_batches, "PASS_COST", {"cpu": 0})
    for other in (programs("pack", [configs]), programs("alone", [[each] for each in configs])):
        for a, b in zip(whole, other, strict=True):
            assert a.metrics == pytest.approx(b.metrics)
            for name in a.tensors:
                torch.testing.assert_close(a.tensors[name], b.tensors[name], rtol=1e-3, atol=1e-4)


# --- memory ------------------------------------------------------------------------------------------


class Created(TorchDispatchMode):
    """Remembers every storage that an operation returns, without keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.sizes[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return out

    def alive(self) -> int:
        return sum(size for storage, size in self.sizes.items() if not storage.expired())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_what_is_counted_is_what_lives_on_after_a_forward_pass(
    body: Body, family: str, runs: int, dropout: float
) -> None:
    task = BitXor(8)
    model = FPT(task.spec, body(family), SEEDS[:runs], ModelSettings(dropout=dropout))
    alive = []
    for rows in (2, 4):
        batch = task.train_batch(SEEDS[:runs], 0, rows)
        with Created() as created:
            logits = model(batch, row_keys=torch.zeros(runs * rows, dtype=torch.int64))
        alive.append(created.alive() + batch.tokens.nbytes - logits.nbytes)
    assert row_bytes(model, task) == pytest.approx((alive[1] - alive[0]) / (2 * runs), rel=0.03)


def test_bytes_grow_with_rows_and_without_a_body_are_those_of_input_and_hidden_states(body: Body) -> None:
    task = BitXor(5)
    counts = [kept_bytes(FPT(task.spec, body(), SEEDS), task, rows) for rows in (2, 3, 4, 6)]
    assert counts[1] - counts[0] == counts[2] - counts[1] == (counts[3] - counts[2]) / 2 > 0
    nothing = build_backbone(BodyRequest("none"))
    assert row_bytes(FPT(task.spec, nothing, SEEDS), task) == 4 * 10 * (1 + nothing.info.width)


def test_a_task_with_lengths_is_measured_with_its_mask(body: Body, ragged: StoredTask) -> None:
    model = FPT(ragged.spec, body(), SEEDS)
    batches: list[Batch] = []
    model.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0]))
    row_bytes(model, ragged)
    assert [tuple(batch.tokens.shape) for batch in batches] == [(9, 9), (6, 9)]
    assert all(batch.lengths is not None and batch.lengths.tolist() == [8] * len(batch) for batch in batches)


def test_a_trial_leaves_no_gradient_and_frozen_layers_keep_nothing(body: Body) -> None:
    model = FPT(BitXor(2).spec, body(), SEEDS, ModelSettings(train_roles=("output",)))
    assert row_bytes(model, BitXor(2)) == 4 * 2 * 16  # the output layer's input: two positions of width 16
    assert all(p.grad is None for p in model.parameters())


def test_tokens_and_runs_follow_from_memory(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FPT(BitXor(2).spec, body(), SEEDS)
    task = BitXor(2)
    row = row_bytes(model, task)
    monkeypatch.setattr(micro_batches, "total_memory", lambda device: 2 * 7 * row)
    assert tokens_per_pass(model, task) == 7 * 4
    monkeypatch.setattr(micro_batches, "STATE_COPIES", 0)
    assert [max_runs(model, task, rows) for rows in (1, 2, 100)] == [7, 3, 1]
    monkeypatch.setattr(micro_batches, "STATE_COPIES", 10)
    state = 10 * sum(p.nbytes for p in model.trained().values()) // 3
    monkeypatch.setattr(micro_batches, "total_memory", lambda device: 2 * 5 * (state + row))
    assert max_runs(model, task) == 5


@pytest.mark.parametrize(("micro_batch", "expected"), [(None, [2, 2, 1]), (3, [3, 2]), (1, [1] * 5), (9, [5])])
def test_memory_chooses_the_rows_of_a_pass_unless_they_are_given(
    config: Configure,
    body: Body,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    micro_batch: int | None,
    expected: list[int],
) -> None:
    configs = [config(seed=seed, batch_size=5) for seed in (0, 1)]
    row = row_bytes(FPT(BitXor(2).spec, body(), SEEDS[:2]), BitXor(2))
    monkeypatch.setattr(micro_batches, "total_memory", lambda device: 2 * 5 * row)  # five rows for two runs
    pack = Pack(BitXor(2), body(), configs, ExecutionContext(tmp_path, device="cpu", micro_batch=micro_batch))
    sizes: list[int] = []
    pack.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0]) // 2))
    pack.train_step()
    assert sizes == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", ["bit-xor", "ragged"])
def test_a_training_step_never_waits_for_the_gpu(
    config: Configure, body: Body, tmp_path: Path, ragged: StoredTask, name: str, dropout: float
) -> None:
    runtime = select_runtime("cuda")
    task = (ragged if name == "ragged" else BitXor(2)).to(runtime.device)
    configs = [config(seed=seed, task=name, task_options={}, dropout=dropout) for seed in SEEDS]
    pack = Pack(task, body("gpt2"), configs, ExecutionContext(tmp_path, device="cuda"))
    pack.train_step()  # the first step may wait, because it sets things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        pack.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
