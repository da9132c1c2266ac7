"""The procedural tasks: every example is right by a plain computation, splits are fixed, streams repeat."""

import itertools

import pytest
import torch

from icecore.core.errors import ConfigError
from icecore.tasks import TASKS, build_task
from icecore.tasks.entry import TaskRequest
from icecore.tasks.procedural import Copy, Dyck, NeuralCellularAutomaton

NAMES = ("copy", "dyck", "nca")


@pytest.mark.parametrize("name", NAMES)
def test_examples_fit_the_sizes_and_repeat(name: str) -> None:
    task, again = (build_task(name, TaskRequest()) for _ in range(2))
    entry = TASKS[name]
    assert task.spec == entry.spec(entry.options)
    packed, alone = task.train_batch([3, 4], 7, 8), again.train_batch([4], 7, 8)
    assert torch.equal(packed.tokens[8:], alone.tokens)
    assert torch.equal(packed.targets[8:], alone.targets)
    assert not torch.equal(packed.tokens[:8], alone.tokens)
    for batch in (packed, next(task.batches("val", 32))):
        assert batch.tokens.shape[1:] == (task.spec.length,)
        assert batch.targets.shape[1:] == (task.spec.read_positions,)
        assert 0 <= batch.tokens.min() <= batch.tokens.max() < task.spec.size
        assert 0 <= batch.targets.min() <= batch.targets.max() < task.spec.outputs
    whole = torch.cat([batch.tokens for batch in task.batches("test", 64, 100)])
    assert torch.equal(whole, torch.cat([batch.tokens for batch in again.batches("test", 7, 100)]))


def test_copies_are_what_came_first() -> None:
    task = Copy(length=5, symbols=3)
    batch = task.train_batch([0], 0, 50)
    assert torch.equal(batch.tokens[:, :5], batch.targets)
    assert (batch.tokens[:, 5:] == 3).all()


def test_the_bracket_to_close_is_the_innermost_open_one() -> None:
    task = Dyck(length=20, kinds=3)
    batch = task.train_batch([0], 0, 200)
    deepest = 0
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        stack: list[int] = []
        for token, target in zip(tokens, targets, strict=True):
            if token < 3:
                stack.append(token)
            else:
                assert stack.pop() == token - 3
            assert target == (stack[-1] if stack else 3)
            deepest = max(deepest, len(stack))
    assert deepest > 5


def test_an_automaton_has_one_rule_an_example() -> None:
    """Equal neighbourhoods of one example have equal successors; other examples have other rules."""
    task = NeuralCellularAutomaton(width=12, rows=3, states=2)
    batch = task.train_batch([0], 0, 60)
    rules = set()
    for tokens, target in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert tokens[36:] == [2] * 12
        rows = [tokens[start : start + 12] for start in (0, 12, 24)] + [target]
        rule: dict[tuple[int, ...], int] = {}
        for before, after in itertools.pairwise(rows):
            for place in range(12):
                seen = (before[place - 1], before[place], before[(place + 1) % 12])
                assert rule.setdefault(seen, after[place]) == after[place]
        rules.add(tuple(sorted(rule.items())))
    assert len(rules) > 20


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in NAMES for option in TASKS[name].options])
def test_sizes_below_one_are_refused(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"option {option} of {name}: expected at least 1, found 0"):
        build_task(name, TaskRequest({option: 0}))


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_sizes_work(name: str) -> None:
    task = build_task(name, TaskRequest(dict.fromkeys(TASKS[name].options, 1)))
    batch = task.train_batch([0], 0, 4)
    logits = torch.zeros(4, task.spec.read_positions, task.spec.outputs)
    assert task.metric(logits, batch.targets).shape == (4,)
