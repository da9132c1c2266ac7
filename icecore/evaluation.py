"""Scoring R programs on a split: in order, each example once, every program on the same rows."""

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.model import FPT
from icecore.tasks.task import Batch, Task, TaskSpec

#: tokens in one forward pass; larger passes are no faster, smaller ones waste launches
TOKENS_PER_PASS = {"cpu": 8192, "cuda": 262144, "mps": 65536}


@torch.inference_mode()
def evaluate(model: FPT, task: Task, split: str, limit: int | None = None, unmasked: bool = False) -> Tensor:
    """Mean metric of each program over the split, (R,) on the CPU.

    limit     at most this many examples, from the start
    unmasked  reproduce the published code's fault of reading short sequences at a padding position
    """
    R = model.runs
    tokens = TOKENS_PER_PASS[next(model.parameters()).device.type]
    size = max(1, tokens // (R * task.spec.length))
    total = torch.zeros(R, dtype=torch.float64)
    count = 0
    for batch in task.batches(split, size, limit):
        rows = without_mask(batch, task.spec) if unmasked else batch
        repeated = rows.repeat(R) if R > 1 else rows
        hits = task.metric(model(repeated), repeated.targets)
        # summed in fp64, so that the mean does not depend on the size of the passes
        total += hits.view(R, -1).cpu().double().sum(1)
        count += len(batch)
    return total / max(1, count)


def without_mask(batch: Batch, spec: TaskSpec) -> Batch:
    """The batch padded to full length with its lengths forgotten (paper.md, fault 2)."""
    if batch.lengths is None:
        return batch
    pad = spec.length - batch.tokens.shape[1]
    widths = (0, pad) if batch.tokens.dim() == 2 else (0, 0, 0, pad)
    return Batch(F.pad(batch.tokens, widths), batch.targets)
