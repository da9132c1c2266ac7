"""What a program attends to, small enough for an answer: the mean over heads, layers and queries, and a map."""

from typing import Any

import torch
from torch import Tensor

from icecore.inference.attention_maps import normalize_rows, pool
from icecore.serving.served_program import ServedProgram
from icecore.tasks.task import TaskSpec

#: rows of a request that may be explained: each takes a pass of its own
MAX_EXPLAINED_ROWS = 16
#: largest side of a map; longer rows are pooled
MAX_MAP = 64
SHARE_DIGITS = 5


def explain_row(program: ServedProgram, attention: Tensor) -> dict[str, Any]:
    """Attention (L, H, T, T) of one row for an answer.

    `attention` (T) is how much each token is looked at where the answer is read, as the mean over heads and layers;
    `layers` (L, T) is the same for each layer, and `map` (C, C) is the mean of all queries over keys in cells of
    `stride` tokens.
    """
    L, _, T, _ = attention.shape
    layers = attention[:, :, read_queries(program.loaded.spec, T)].mean((1, 2))
    stride = -(-T // MAX_MAP)
    cells = normalize_rows(pool(attention.mean((0, 1))[None], stride))[0]
    return {
        **program.codec.token_labels(T),
        "attention": _rounded(layers.mean(0)),
        "layers": [_rounded(layers[layer]) for layer in range(L)],
        "map": [_rounded(row) for row in cells],
        "stride": stride,
    }


def read_queries(spec: TaskSpec, T: int) -> Tensor:
    """Which of T positions the answer is read from (T,), each once, though several read-outs may share one."""
    is_read = torch.zeros(T, dtype=torch.bool)
    for read_out in spec.read_outs:
        if read_out == "first":
            is_read[0] = True
        elif read_out == "last":
            is_read[-spec.read_positions :] = True
        else:  # means over all positions
            is_read[:] = True
    return is_read


def _rounded(values: Tensor) -> list[float]:
    return [round(value, SHARE_DIGITS) for value in values.tolist()]
