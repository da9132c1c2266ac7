"""The algorithmic tasks: every example is right by a plain computation, splits are fixed, streams repeat."""

import random

import pytest
import torch
from torch import Tensor

from icecore.core.errors import ConfigError
from icecore.tasks import TASKS, build_task
from icecore.tasks.algorithms import (
    BLANK,
    EQUALS,
    OPENING,
    PLUS,
    QUESTION,
    DecimalAddition,
    ModularAddition,
    Needle,
    ParenthesisBalancing,
    _balanced,
)
from icecore.tasks.entry import TaskRequest
from icecore.tasks.task import Batch

NAMES = ("modular-addition", "needle", "decimal-addition", "parenthesis-balancing")


def rows(batch: Batch) -> list[list[int]]:
    """The real tokens of each row."""
    T = batch.tokens.shape[1]
    lengths = [T] * len(batch) if batch.lengths is None else batch.lengths.tolist()
    return [row[:length] for row, length in zip(batch.tokens.tolist(), lengths, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_examples_fit_the_sizes_of_the_task(name: str) -> None:
    task = build_task(name, TaskRequest())
    entry = TASKS[name]
    assert task.spec == entry.spec(entry.options)
    for batch in (task.train_batch([3, 4], 7, 16), next(task.batches("val", 32))):
        assert batch.tokens.dtype == batch.targets.dtype == torch.int64
        assert 0 <= batch.tokens.min() <= batch.tokens.max() < task.spec.size
        assert 0 <= batch.targets.min() <= batch.targets.max() < task.spec.outputs
        assert batch.tokens.shape[1] <= task.spec.length
        assert 1 <= entry.tokens(entry.options) <= task.spec.length


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_functions_of_seed_step_and_row(name: str) -> None:
    task, again = (build_task(name, TaskRequest()) for _ in range(2))
    packed, alone = task.train_batch([3, 4], 7, 8), again.train_batch([4], 7, 8)
    assert rows(packed)[8:] == rows(alone)
    assert torch.equal(packed.targets[8:], alone.targets)
    assert rows(packed)[:8] != rows(alone)
    assert rows(task.train_batch([4], 8, 8)) != rows(alone)
    whole = [row for batch in task.batches("test", 64, 100) for row in rows(batch)]
    parts = [row for batch in again.batches("test", 7, 100) for row in rows(batch)]
    assert whole == parts
    assert len(whole) == 100


def test_modular_addition_divides_all_pairs() -> None:
    task = ModularAddition(23)
    seen: list[tuple[int, int]] = []
    for split in ("train", "val", "test"):
        for batch in task.batches(split, 1000):
            assert torch.equal(batch.targets, batch.tokens.sum(1) % 23)
            seen += [(a, b) for a, b in batch.tokens.tolist()]
    assert sorted(seen) == [(a, b) for a in range(23) for b in range(23)]
    assert [task.split_size(split) for split in ("val", "test")] == [26, 26]


def test_the_needle_is_the_value_beside_the_marker() -> None:
    task = Needle(needles=4, values=9)
    batch = task.train_batch([0], 0, 400)
    for row, target in zip(rows(batch), batch.targets.tolist(), strict=True):
        *pairs, query = row
        markers, values = pairs[0::2], pairs[1::2]
        assert len(set(markers)) == len(markers) == len(values)
        assert all(9 <= marker < 13 for marker in markers)
        assert values[markers.index(query - 4)] == target
    assert {len(row) for row in rows(batch)} == {3, 5, 7, 9}
    assert (batch.tokens[batch.lengths == 3][:, 3:] == 0).all()


def number(digits: list[int]) -> int:
    return int("".join(map(str, reversed(digits))))


def test_sums_are_right_to_the_last_carry() -> None:
    task = DecimalAddition(digits=3)
    batch = task.train_batch([0], 0, 500)
    carried = 0
    for row, target in zip(rows(batch), batch.targets.tolist(), strict=True):
        first, second = number(row[:3]), number(row[4:7])
        assert (row[3], row[7], row[8:]) == (PLUS, EQUALS, [BLANK] * 4)
        assert min(first, second) >= 100
        assert number(target) == first + second
        carried += first + second >= 1000
    assert 0 < carried < 500


def is_balanced(string: list[int]) -> bool:
    height = 0
    for character in string:
        height += 1 if character == OPENING else -1
        if height < 0:
            return False
    return height == 0


def test_parentheses_are_judged_rightly() -> None:
    task = ParenthesisBalancing(pairs=8)
    batch = task.train_batch([0], 0, 600)
    for row, target in zip(rows(batch), batch.targets.tolist(), strict=True):
        *string, end = row
        assert end == QUESTION
        assert 1 <= len(string) <= 16
        assert is_balanced(string) == bool(target)
    # a third is balanced, and some of the others are by chance
    assert 0.33 < batch.targets.float().mean() < 0.5


def test_balanced_strings_are_equally_likely() -> None:
    draws = random.Random(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(5000):
        string = _balanced(draws, 3)
        assert is_balanced(string)
        counts[tuple(string)] = counts.get(tuple(string), 0) + 1
    assert len(counts) == 5  # the third Catalan number
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in counts.values())


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("modular-addition", "modulus"),
        ("needle", "needles"),
        ("needle", "values"),
        ("decimal-addition", "digits"),
        ("parenthesis-balancing", "pairs"),
    ],
)
def test_sizes_below_one_are_refused(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"option {option} of {name}: expected (at least 1|5 to 4,096), found 0"):
        build_task(name, TaskRequest({option: 0}))


@pytest.mark.parametrize(("name", "option"), [("needle", "needles"), ("decimal-addition", "digits")])
def test_sizes_that_fit_no_memory_are_refused(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: an example would have .* numbers, but at most 16,777,216 are"):
        build_task(name, TaskRequest({option: 10**7}))


def test_the_smallest_sizes_work() -> None:
    for name, options in (
        ("modular-addition", {"modulus": 5}),
        ("needle", {"needles": 1, "values": 1}),
        ("decimal-addition", {"digits": 1}),
        ("parenthesis-balancing", {"pairs": 1}),
    ):
        task = build_task(name, TaskRequest(options))
        batches = [task.train_batch([0], 0, 4), *(next(task.batches(s, 4)) for s in ("val", "test"))]
        logits: list[Tensor] = [
            torch.zeros(len(batch), task.spec.read_positions, task.spec.outputs) for batch in batches
        ]
        for batch, zeros in zip(batches, logits, strict=True):
            assert task.loss(zeros, batch.targets).shape == (len(batch),)
