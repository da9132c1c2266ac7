"""Micro-batches: which rows go through a body together, so that little is padded and every pass fits into memory.

Results stay the same. The split depends on lengths and on the device's whole memory, never on the memory that is free,
so that a resumed run equals an unbroken one to the bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from icecore.core.device import total_memory
from icecore.model.fpt import FPT
from icecore.tasks.task import Batch, Task

#: share of the device's memory for what the backward pass needs; the rest is for the body, the data and others
ACTIVATION_MEMORY_SHARE = 0.5
#: copies of a run's trained numbers: parameters, gradients (twice), Adam's values, moments and update, start and best
STATE_COPIES = 10
#: cost of one more pass, in tokens that could go through the body in the same time. CPU: 30 to 66 measured (GPT-2
#: small and MiniLM, T = 64, passes of 64 to 256 tokens, one core, fp32). CUDA: where an H100's time is no more the
#: host's launches (estimate). There is no smallest pass for the cache: 256 tokens took 10 % longer than 2048.
PASS_COST = {"cpu": 64, "cuda": 8192, "mps": 2048}


def split_by_length(
    batch: Batch, runs: int, rows: int | None = None, tokens: int | None = None
) -> Iterator[tuple[Batch, Tensor | slice]]:
    """The rows of a run-major batch (N = R * B) in passes, each with the indices of its rows, on the CPU.

    A pass is run-major too, has equally many rows of each run, and is as long as its longest row. Rows are added to a
    pass, longest first, until its padding would cost more than one more pass (`PASS_COST`).

    rows    at most this many rows of each run per pass; None: any number
    tokens  at most this many tokens per pass, unless one row of each run has more; None: any number
    """
    B, T = len(batch) // runs, batch.tokens.shape[1]
    lengths = torch.full((runs, B), T) if batch.lengths is None else batch.lengths.view(runs, B)
    lengths, order = lengths.sort(descending=True, stable=True)
    longest = lengths.amax(0).tolist()
    places = order + torch.arange(runs)[:, None] * B
    tokens, cost = tokens or runs * B * T, PASS_COST[batch.tokens.device.type]
    first = 0
    for stop in _stops(longest, rows or B, tokens // runs, cost // runs):
        index = slice(None) if stop - first == B else places[:, first:stop].reshape(-1)
        yield _trimmed(batch.rows(index), longest[first]), index
        first = stop


def _stops(longest: list[int], rows: int, tokens: int, cost: int) -> list[int]:
    """The end of each pass in a run's rows, whose lengths descend. `tokens` and `cost` are those of one run."""
    stops: list[int] = []
    first = padding = 0
    for row, length in enumerate(longest):
        padding += longest[first] - length
        if row > first and (padding > cost or row - first >= rows or (row - first + 1) * longest[first] > tokens):
            stops.append(row)
            first, padding = row, 0
    return [*stops, len(longest)]


def _trimmed(batch: Batch, length: int) -> Batch:
    """The batch cut to its longest row; without lengths, and so without a mask, if no row is shorter."""
    full = batch.lengths is None or int(batch.lengths.min()) == length
    return Batch(batch.tokens[:, :length], batch.targets, None if full else batch.lengths)


def tokens_per_pass(model: FPT, task: Task) -> int:
    """Tokens of all runs together whose backward pass fits in this device's memory."""
    return _room(model) * task.spec.length // row_bytes(model, task)


def max_runs(model: FPT, task: Task, rows: int = 1) -> int:
    """Runs whose states, and the backward pass of `rows` rows of each, fit in this device's memory; at least 1."""
    state = STATE_COPIES * sum(p.nbytes for p in model.trained().values()) // model.runs
    return max(1, _room(model) // (state + rows * row_bytes(model, task)))


def row_bytes(model: FPT, task: Task) -> int:
    """Bytes that a forward pass keeps for backward for each additional row of full length; at least 1."""
    # measured from two rows on: with one row, transposed tensors are contiguous, and views keep more than copies
    return max(1, (kept_bytes(model, task, 3) - kept_bytes(model, task, 2)) // model.runs)


@torch.enable_grad()
def kept_bytes(model: FPT, task: Task, rows: int) -> int:
    """Bytes that a forward pass of `rows` full rows of each run keeps for backward, without parameters.

    It is measured by a trial that keeps nothing itself: tensors are counted as they are saved, and released.
    """
    N, T = rows * model.runs, task.spec.length
    example = task.train_batch([0], 0, 1)
    tokens = example.tokens.new_zeros(N, T, *example.tokens.shape[2:])
    # one position less than T, because a mask that hides nothing may be left out
    lengths = None if example.lengths is None else torch.full((N,), max(1, T - 1))
    # weak references, because a later storage may have the same address
    kept: dict[StorageWeakRef, int] = {}

    def count(x: Tensor) -> None:
        storage = x.untyped_storage()
        kept[StorageWeakRef(storage)] = storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
        model(Batch(tokens, example.targets, lengths), row_keys=torch.zeros(N, dtype=torch.int64, device=tokens.device))
    parameters = {StorageWeakRef(p.untyped_storage()) for p in model.parameters()}
    return sum(size for storage, size in kept.items() if storage not in parameters)


def _room(model: FPT) -> int:
    return int(ACTIVATION_MEMORY_SHARE * total_memory(next(model.parameters()).device))
