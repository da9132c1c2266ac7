"""A pass is bound to the thread in which the body runs, ends with it, and spreads programs over rows."""

import threading

import pytest
import torch

from icecore.backbones.modules.body_pass import PLAIN_PASS, BodyPass, per_row, run_pass, running_pass

R, B, T, D = 3, 2, 4, 6


def test_per_row_shapes_values_for_rows_of_any_rank() -> None:
    values, rows = torch.randn(R, D), torch.zeros(R * B, T, D)
    spread = per_row(values, rows, None)
    assert spread.shape == (R * B, 1, D)
    assert torch.equal(spread[:, 0], values.repeat_interleave(B, 0))
    mixed = per_row(values, rows[:, 0], torch.tensor([2, 0, 1, 1, 0, 2]))
    assert torch.equal(mixed, values[[2, 0, 1, 1, 0, 2]])
    assert per_row(values[:1], rows, None).shape == (1, 1, D)


def interrupted_within(body_pass: BodyPass) -> None:
    with run_pass(body_pass):
        assert running_pass().value is body_pass
        assert running_pass().positions is None
        raise KeyboardInterrupt


def test_a_pass_ends_with_its_block_whatever_happens_in_it() -> None:
    outer, inner = BodyPass(compiled=True), BodyPass(run_of_row=torch.arange(2))
    assert running_pass().value is PLAIN_PASS
    with run_pass(outer, torch.zeros(1, 1)):
        with pytest.raises(KeyboardInterrupt):
            interrupted_within(inner)
        assert running_pass().value is outer
        assert running_pass().positions is not None
    assert running_pass().value is PLAIN_PASS


def test_what_a_pass_remembers_is_forgotten_with_it() -> None:
    body_pass = BodyPass()
    with run_pass(body_pass):
        running_pass().dropout_uses[3] += 1
        running_pass().residual = torch.zeros(1)
    with run_pass(body_pass):
        assert running_pass().dropout_uses[3] == 0
        assert running_pass().residual is None


def test_threads_do_not_see_each_others_passes() -> None:
    passes = [BodyPass(), BodyPass()]
    seen: list[list[BodyPass]] = [[], []]
    both_bound = threading.Barrier(2)

    def look(number: int) -> None:
        seen[number].append(running_pass().value)
        with run_pass(passes[number]):
            both_bound.wait(10)
            seen[number].append(running_pass().value)
            both_bound.wait(10)
        seen[number].append(running_pass().value)

    with run_pass(BodyPass()):
        threads = [threading.Thread(target=look, args=[number]) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, (before, within, after) in enumerate(seen):
        assert (before, after) == (PLAIN_PASS, PLAIN_PASS)
        assert within is passes[number]
