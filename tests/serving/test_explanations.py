"""An explanation shows the attention of the positions that the answer is read from, and of no others."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from icecore.serving.explanations import explain_row
from icecore.tasks.task import TaskSpec


@pytest.mark.parametrize(
    ("read_out", "positions", "read"),
    [
        ("last", 1, [3]),
        ("last", 2, [2, 3]),
        ("first", 1, [0]),
        ("mean", 1, [0, 1, 2, 3]),
        ("first+last", 1, [0, 3]),
        ("last+mean", 1, [0, 1, 2, 3]),
        ("first+pool-2", 1, [0, 1, 2, 3]),
    ],
)
def test_attention_is_that_of_the_positions_that_are_read(read_out: str, positions: int, read: list[int]) -> None:
    spec = TaskSpec("continuous", 4, 1, 2, read_out, positions)
    codec = SimpleNamespace(token_labels=lambda count: {"unit": "positions", "labels": list(map(str, range(count)))})
    program: Any = SimpleNamespace(loaded=SimpleNamespace(spec=spec), codec=codec)
    attention = torch.eye(4).expand(2, 3, 4, 4)  # each position looks at itself
    explained = explain_row(program, attention)
    expected = [1 / len(read) if position in read else 0.0 for position in range(4)]
    assert explained["attention"] == pytest.approx(expected)
    assert explained["layers"] == [pytest.approx(expected)] * 2
