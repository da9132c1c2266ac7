"""Scoring R programs on a split: each example once, every program on the same rows."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from icecore.core.errors import DataError
from icecore.model.fpt import FPT
from icecore.tasks.task import Task
from icecore.training.distributed import ALONE, World
from icecore.training.micro_batches import split_by_length

#: tokens in one forward pass; larger passes are no faster, smaller ones waste launches
TOKENS_PER_PASS = {"cpu": 8192, "cuda": 262144, "mps": 65536}
#: passes whose examples are sorted by length together, so that each pass has examples of similar length
PASSES_PER_WINDOW = 8


@torch.inference_mode()
def evaluate(
    model: FPT, task: Task, split: str, limit: int | None = None, world: World = ALONE, finite: bool = False
) -> Tensor:
    """Mean metric of each program over the split, (R,) on the CPU.

    limit  at most this many examples, from the start
    world  processes that each score a share; all of them return the mean
    finite raise DataError for logits that are not finite, whose metric would have no meaning
    """
    return evaluate_with_loss(model, task, split, limit, world, finite)[0]


@torch.inference_mode()
def evaluate_with_loss(
    model: FPT, task: Task, split: str, limit: int | None = None, world: World = ALONE, finite: bool = False
) -> tuple[Tensor, Tensor]:
    """As `evaluate`, with the mean loss of each program as well: (R,) and (R,) on the CPU."""
    passes = ((logits, targets) for logits, targets, _ in _passes(model, task, split, limit, world))
    if finite:
        passes = map(_checked, passes)
    return mean_scores(task, model.runs, passes, world)


@torch.inference_mode()
def predict(model: FPT, task: Task, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits (R, N, n, C) of each program for the split's examples, in order, and targets (N, ...); on the CPU."""
    passes = [(logits.cpu(), targets.cpu(), places) for logits, targets, places in _passes(model, task, split, limit)]
    order = torch.cat([places for *_, places in passes]).argsort()
    R = model.runs
    logits = torch.cat([each.unflatten(0, (R, -1)) for each, *_ in passes], 1)
    targets = torch.cat([each[: len(places)] for _, each, places in passes])
    return logits[:, order], targets[order]


def _passes(
    model: FPT, task: Task, split: str, limit: int | None = None, world: World = ALONE
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Run-major logits and targets of each pass, and the places of its examples in the split, on the CPU."""
    R = model.runs
    size = examples_per_pass(model, R)
    first = 0
    for window in task.batches(split, max(PASSES_PER_WINDOW, world.size) * size, limit):
        rows = task.prepare_batch(window)
        mine, places = world.share(rows, 1)
        passes = split_by_length(mine, runs=1, tokens=size * task.spec.length) if len(mine) else ()
        places = torch.arange(first, first + len(rows))[places]
        for (part, index), counts in world.in_step(passes, (rows.rows(slice(1)), slice(0))):
            repeated = part.repeat(R) if R > 1 else part
            logits = model(repeated)
            if counts:
                yield logits, repeated.targets, places[index]
        first += len(rows)


def _checked(logits_and_targets: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if not logits_and_targets[0].isfinite().all():
        raise DataError("The program gives numbers that are not finite. Its weights are too large: train it again.")
    return logits_and_targets


def examples_per_pass(model: FPT, runs: int = 1) -> int:
    """Examples that go through the body at once, each for `runs` runs."""
    tokens = TOKENS_PER_PASS[next(model.parameters()).device.type]
    return max(1, tokens // (runs * model.spec.length))


def mean_scores(
    task: Task, runs: int, passes: Iterable[tuple[Tensor, Tensor]], world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """Mean metric and mean loss of each run, (R,) and (R,) on the CPU.

    passes  run-major logits (N, n, C) and targets (N, ...)
    world   processes whose passes count together
    """
    parts = [
        torch.stack([score(logits, targets).view(runs, -1) for score in (task.metric, task.loss)])
        for logits, targets in passes
    ]
    # in fp64, so that the mean does not depend on how passes are split; fetched once, because fetching waits
    values = torch.cat(parts, 2).cpu().double() if parts else torch.zeros(2, runs, 0, dtype=torch.float64)
    total, count = values.sum(2), torch.tensor([values.shape[2]], dtype=torch.float64)
    world.sum(total, count)
    metrics, losses = total / count
    return metrics, losses
