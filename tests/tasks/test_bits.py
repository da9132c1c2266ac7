"""Bit memory and bit XOR against slow oracles: what is shown, what is asked, and what decides it."""

import pytest
import torch

from icecore.core.errors import ConfigError
from icecore.tasks.bits import BitMemory, BitTask, BitXor, build_bit_memory, build_bit_xor
from icecore.tasks.entry import TaskRequest
from icecore.tasks.task import Batch

SMALL = [BitMemory(strings=3, bits=12, width=4), BitXor(n=3), BitXor(n=9)]
small_tasks = pytest.mark.parametrize("task", SMALL, ids=["memory", "xor-3", "xor-9"])


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)


def whole(task: BitTask, split: str, batch_size: int = 64) -> Batch:
    parts = list(task.batches(split, batch_size))
    return Batch(torch.cat([p.tokens for p in parts]), torch.cat([p.targets for p in parts]))


def test_published_sizes():
    memory, xor = build_bit_memory(TaskRequest()).spec, build_bit_xor(TaskRequest()).spec
    assert (memory, xor) == (BitMemory().spec, BitXor().spec)
    assert (memory.length, memory.size, memory.read_positions, memory.outputs) == (120, 50, 20, 100)
    assert (xor.length, xor.size, xor.read_positions, xor.outputs) == (10, 1, 5, 2)


@pytest.mark.parametrize("n", [1, 5, 256])
def test_xor_targets(n):
    task = build_bit_xor(TaskRequest({"n": str(n)}))
    batch = task.train_batch([0, 1], step=3, batch_size=4)
    assert batch.tokens.shape == (8, 2 * n, 1)
    assert batch.targets.shape == (8, n)
    for row, target in zip(batch.tokens[..., 0].tolist(), batch.targets.tolist(), strict=True):
        assert set(row) <= {-1.0, 1.0}
        assert target == [int(row[a] != row[b]) for a, b in map(task.relevant, range(n))]


def test_xor_relevant_positions_decide_the_output_and_are_seen_by_a_causal_body():
    task = BitXor(n=4)
    for i in range(4):
        first, second = task.relevant(i)
        # output i of n is read at position n + i, the last of the two
        assert (first, second) == (i, task.spec.length - task.spec.read_positions + i)


def test_memory_rows():
    task = BitMemory(strings=3, bits=12, width=4)
    batch = task.train_batch([5], step=0, batch_size=50)
    assert batch.tokens.shape == (50, 12, 4)
    assert batch.targets.shape == (50, 3, 4)
    asked = []
    for shown, answer in zip(batch.tokens.reshape(50, 4, 12), batch.targets.reshape(50, 12), strict=True):
        *strings, copy = shown.tolist()
        assert {bit for string in strings for bit in string} <= {-1.0, 1.0}
        wanted = [2.0 * bit - 1.0 for bit in answer.tolist()]
        assert wanted in strings
        assert all(c in (0.0, w) for c, w in zip(copy, wanted, strict=True))
        asked.append(strings.index(wanted))
    assert set(asked) == {0, 1, 2}


def test_memory_frequencies():
    # 40 strings of 1000 bits: a share of 1/2 has a standard error below 0.003
    batch = BitMemory().train_batch([1], step=0, batch_size=40)
    copy = batch.tokens[:, -20:]
    assert abs(batch.targets.float().mean().item() - 0.5) < 0.015
    assert abs((copy == 0).float().mean().item() - 0.5) < 0.015
    assert abs((batch.tokens[:, :-20] > 0).float().mean().item() - 0.5) < 0.006


@small_tasks
def test_a_run_sees_the_same_examples_alone_and_packed(task):
    packed = task.train_batch([7, 8, 7], step=2, batch_size=5)
    for r, seed in enumerate([7, 8, 7]):
        assert same(packed.rows(slice(5 * r, 5 * r + 5)), task.train_batch([seed], step=2, batch_size=5))
    assert not same(packed.rows(slice(0, 5)), packed.rows(slice(5, 10)))
    assert not same(packed.rows(slice(0, 5)), task.train_batch([7], step=3, batch_size=5))


@small_tasks
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_splits_do_not_depend_on_batch_size(task, split):
    examples = whole(task, split)
    assert len(examples) == task.split_size(split)
    assert same(examples, whole(task, split, batch_size=37))
    head = list(task.batches(split, 6, limit=10))
    assert [len(batch) for batch in head] == [6, 4]
    assert same(head[1], examples.rows(slice(6, 10)))


def test_drawn_splits_differ():
    task = BitXor(n=16)
    rows = [{tuple(row) for row in whole(task, split).tokens[..., 0].tolist()} for split in ("train", "val", "test")]
    # 6,000 of 2**32 pairs: few can be drawn twice, and equal splits would share thousands
    assert len(set.union(*rows)) > 5990


def test_short_xor_is_scored_on_every_pair_once():
    for n in (1, 3, 5):
        task = BitXor(n)
        test = {tuple(row) for row in whole(task, "test").tokens[..., 0].tolist()}
        val = [tuple(row) for row in whole(task, "val").tokens[..., 0].tolist()]
        assert len(test) == task.split_size("test") == 4**n
        assert len(set(val)) == len(val) == min(256, 4**n)
        assert set(val) <= test
        assert f"each of the {4**n} pairs once" in task.data["remark"]
    assert BitXor(7).split_size("test") == 2000


@small_tasks
def test_right_logits_score_one_and_wrong_ones_zero(task):
    batch = task.train_batch([0], step=0, batch_size=6)
    spec = task.spec
    # the documented layout: outputs 2j and 2j + 1 score a 0 and a 1 of bit j
    right = torch.nn.functional.one_hot(batch.targets, 2).float().reshape(6, spec.read_positions, spec.outputs) * 50
    assert task.metric(right, batch.targets).tolist() == [1.0] * 6
    assert task.metric(-right, batch.targets).tolist() == [0.0] * 6
    assert task.loss(right, batch.targets).max() < 1e-6
    assert torch.allclose(task.loss(torch.zeros_like(right), batch.targets), torch.full((6,), 2.0).log())


def test_a_packed_batch_has_the_dtypes_of_the_contract():
    for task in SMALL:
        batch = task.to(torch.device("cpu")).train_batch([0], 0, 2)
        assert batch.tokens.dtype == torch.float32
        assert batch.targets.dtype == torch.int64
        assert batch.lengths is None


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (build_bit_xor, {"m": 3}, "Unknown option of bit-xor 'm'"),
        (build_bit_xor, {"n": 0}, "option n of bit-xor: expected at least 1, found 0"),
        (build_bit_xor, {"n": "five"}, "option n of bit-xor: expected int, found 'five'"),
        (build_bit_memory, {"strings": 0}, "option strings of bit-memory: expected at least 1"),
        (
            build_bit_memory,
            {"width": 300},
            "1000 bits cannot be divided into tokens of 300 bits. Choose bits as a multiple of width",
        ),
    ],
)
def test_refused_options(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build(TaskRequest(options))
