"""The feature cache: if only output layers are trained, what they read is computed once for each example.

Features are a pure function of data, body and run seed. They are computed for one seed at a time and in fixed blocks
of a split, so that cached and new features, and resumed and unbroken runs, agree to the bit.
"""

import contextlib
import itertools
import mmap
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icecore.core.config import OUTPUT, RunConfig
from icecore.core.device import to_device, total_memory
from icecore.core.storage import storage_errors
from icecore.model.fpt import FPT
from icecore.tasks.task import Batch, Task
from icecore.training.evaluation import PASSES_PER_WINDOW, examples_per_pass, mean_scores
from icecore.training.micro_batches import split_by_length

#: share of the device's memory that features may take before they are kept in a file
FEATURE_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class CachedFeatures:
    """Cached features: rows (E, S, n, D) of E examples for S seeds, and targets (E, ...) on the model's device.

    spans  the rows of each split's first examples, in order
    """

    rows: Tensor
    targets: Tensor
    seeds: Sequence[int]
    spans: Mapping[str, range]

    def slots(self, seeds: Sequence[int]) -> list[int]:
        """The index on axis S of each seed."""
        return [self.seeds.index(seed) for seed in seeds]


class FeatureCache:
    """The features of a pack that trains output layers only, cached for the splits that are read repeatedly.

    Parameters:
        programs: initial tensors of a run by seed; runs with the same seed share features
        splits: number of examples to cache of "train" (all of them) and of the validation split (its first ones)
    """

    def __init__(
        self,
        model: FPT,
        task: Task,
        programs: Mapping[int, Mapping[str, Tensor]],
        splits: Mapping[str, int],
    ) -> None:
        self.model, self.task, self.programs = model, task, programs
        self.splits = splits
        self.device = next(model.parameters()).device
        self.kept: CachedFeatures | None = None
        #: examples of a block: several passes, so that lengths can be grouped; fewer if many positions are read
        self._block = max(1, PASSES_PER_WINDOW // task.spec.read_positions) * examples_per_pass(model)

    def keep(self, seeds: Sequence[int], folder: Path, memory: int | None = None) -> dict[str, Any]:
        """Compute the features for runs of these seeds; needed once before `losses`.

        memory  bytes to keep in the device's memory (None: a share of it); larger caches go to a file in `folder`

        Returns numbers for the log: examples, seeds, bytes, seconds, and where ("memory" or "file"). Raises
        StorageError if the disk is full.
        """
        clock = time.perf_counter()
        distinct = list(dict.fromkeys(seeds))
        ends = [0, *itertools.accumulate(self.splits.values())]
        spans = {split: range(*ends[i : i + 2]) for i, split in enumerate(self.splits)}
        targets: list[Tensor] = []

        def blocks() -> Iterator[Tensor]:
            for split, count in self.splits.items():
                for rows, wanted in self._fresh(split, count, distinct):
                    targets.append(wanted)
                    yield rows

        stream = blocks()
        first = next(stream)
        stream = itertools.chain([first], stream)
        like = first.new_empty((ends[-1], *first.shape[1:]), device="meta")
        fits = like.nbytes <= (FEATURE_MEMORY_SHARE * total_memory(self.device) if memory is None else memory)
        rows = in_memory(stream, like, self.device) if fits else in_file(stream, like, folder)
        self.kept = CachedFeatures(rows, torch.cat(targets), distinct, spans)
        seconds = round(time.perf_counter() - clock, 3)
        where = "memory" if fits else "file"
        return {"examples": ends[-1], "seeds": len(distinct), "bytes": like.nbytes, "seconds": seconds, "where": where}

    def losses(self, seeds: Sequence[int], step: int, batch_size: int) -> Tensor:
        """Mean losses (R,) of one step's training rows, differentiable; the body does not run."""
        kept, index = self.kept, self.task.train_index(seeds, step, batch_size)
        if kept is None or index is None:
            raise RuntimeError("FeatureCache.keep comes before FeatureCache.losses, on a task with stored examples")
        slots = torch.tensor(kept.slots(seeds))[:, None]
        places = index.view(len(seeds), batch_size) * len(kept.seeds) + slots  # "train" lies first
        rows = to_device(
            kept.rows.flatten(0, 1).index_select(0, to_device(places.flatten(), kept.rows.device)), self.device
        )
        targets = kept.targets.index_select(0, to_device(index, self.device))
        return self.task.loss(self.model.logits(rows), targets).view(len(seeds), -1).mean(1)

    @torch.no_grad()
    def evaluate(self, split: str, limit: int | None, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `evaluation.evaluate_with_loss`, for runs with these seeds; reads what is cached and computes the rest."""
        whole = self.task.split_size(split)
        count = whole if limit is None else min(limit, whole)
        kept = self.kept
        if kept is not None and count <= len(kept.spans.get(split, ())) and set(seeds) <= set(kept.seeds):
            slots, blocks = kept.slots(seeds), self._read(kept, split, count)
        else:
            distinct = list(dict.fromkeys(seeds))
            slots, blocks = [distinct.index(seed) for seed in seeds], self._fresh(split, count, distinct)

        R = len(seeds)
        size = examples_per_pass(self.model, R)

        def passes() -> Iterator[tuple[Tensor, Tensor]]:
            for block, wanted in blocks:
                for rows, targets in zip(block.split(size), wanted.split(size), strict=True):
                    runs = rows[:, slots].transpose(0, 1).flatten(0, 1)  # (b, S, n, D) -> (R b, n, D)
                    yield self.model.logits(runs.to(self.device)), targets.repeat(R, *[1] * (targets.dim() - 1))

        return mean_scores(self.task, R, passes())

    def _read(self, kept: CachedFeatures, split: str, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The cached features of a split's first `count` examples, in the blocks of `_fresh`."""
        span = kept.spans[split][:count]
        for first in range(0, count, self._block):
            block = span[first : first + self._block]
            yield kept.rows[block.start : block.stop], kept.targets[block.start : block.stop]

    @torch.no_grad()
    def _fresh(self, split: str, count: int, seeds: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (b, S, n, D) and targets (b, ...) of a split's first `count` examples, block by block."""
        size = self._block
        # whole blocks, as for the cache, and then cut: the rows beside a row may decide its last bits
        limit = -(-count // size) * size if split in self.splits else count
        for batch in self.task.batches(split, size, limit):
            block = self.task.prepare_batch(batch)
            rows, order = [], []
            for part, places in split_by_length(
                block, runs=1, tokens=examples_per_pass(self.model) * self.task.spec.length
            ):
                rows.append(torch.stack([self._read_alone(part, seed) for seed in seeds], 1))
                order.append(torch.arange(len(block))[places])
            back = to_device(torch.cat(order).argsort()[:count], self.device)
            yield torch.cat(rows)[back], batch.targets[:count]
            count -= size

    def _read_alone(self, batch: Batch, seed: int) -> Tensor:
        """Features (N, n, D) of the run with this seed, as if it were the only one."""
        with alone(self.model, self.programs[seed]):
            return self.model.features(batch)


def plan_feature_cache(
    model: FPT, task: Task, configs: Sequence[RunConfig], programs: Sequence[Mapping[str, Tensor]], choice: str
) -> FeatureCache | None:
    """A feature cache for a pack of runs, or None if features change during training or are not worth caching.

    They stay the same if only output layers are trained, without dropout, on stored examples. They are worth caching
    if the pack would go through the body at least as often as filling the cache does; never without a body, where
    they are larger than the inputs and the layer that reads them does most of the work.

    programs  the runs' initial tensors
    choice    the split on which runs are validated
    """
    config, seeds = configs[0], [c.seed for c in configs]
    examples = task.split_size("train")
    constant = config.train_roles == (OUTPUT,) and not config.dropout and model.backbone.mixes_positions
    stored = task.train_index(seeds, 0, config.batch_size) is not None
    pays = len(configs) * config.steps * config.batch_size >= len(set(seeds)) * examples
    if not (constant and stored and pays):
        return None
    splits = {"train": examples, choice: min(config.eval_examples, task.split_size(choice))}
    return FeatureCache(model, task, dict(zip(seeds, programs, strict=True)), splits)


@contextlib.contextmanager
def alone(model: FPT, program: Mapping[str, Tensor]) -> Iterator[None]:
    """Let `model` hold only the run `program` for a while, without copies. Parameters without run axis stay."""
    parameters = {name: p for name, p in model.program().items() if model.has_run_axis(name)}
    data = {name: p.data for name, p in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = program[name][None]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = data[name]


def in_memory(blocks: Iterable[Tensor], like: Tensor, device: torch.device) -> Tensor:
    """Blocks (b, ...) in a row as one tensor of the shape and type of `like`, on `device`."""
    rows, first = torch.empty_like(like, device=device), 0
    for block in blocks:
        rows[first : first + len(block)] = block
        first += len(block)
    return rows


def in_file(blocks: Iterable[Tensor], like: Tensor, folder: Path) -> Tensor:
    """As `in_memory`, but mapped from a nameless file in `folder`, which the system deletes with the tensor or the
    process.

    The file is written first and mapped afterwards: a full disk refuses a write, which raises StorageError, but it
    kills a process that writes through a mapping.
    """
    remark = f"The features need {like.nbytes / 2**20:,.0f} MiB there. Free the space, or name another --out."
    with storage_errors(folder, remark), tempfile.TemporaryFile(dir=folder) as file:
        for block in blocks:
            file.write(block.cpu().contiguous().view(torch.uint8).numpy().data)
        file.flush()
        # mapped as writable although nothing writes, because torch warns about read-only buffers
        mapped = mmap.mmap(file.fileno(), like.nbytes)
    return torch.frombuffer(mapped, dtype=like.dtype).view(like.shape)
