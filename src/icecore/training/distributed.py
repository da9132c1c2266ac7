"""Data parallelism over the processes that torchrun started: each has the body, and its share of every batch.

Only programs have gradients, so a step exchanges one flat buffer of kilobytes. The first process alone reads and
writes files and decides, and broadcasts the result, so a run may continue with another number of processes.
"""

import contextlib
import datetime
import gc
import os
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

# Its functions take the default process group as a default argument. If it is first imported while a group exists, as
# torch._dynamo does, it keeps that group and its threads until the interpreter ends, which aborts the process if such
# a thread then needs Python ("terminate called without an active exception").
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError
from icecore.model.fpt import FPT
from icecore.tasks.task import Batch
from icecore.training.checkpoint import RunFolder, SecondaryRunFolder

Value = TypeVar("Value")

#: longest time that one process waits for another, which may be reading data or writing to a slow disk
PROCESS_TIMEOUT = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class World:
    """The processes that train together; by default this one alone.

    rank   this process, from 0
    size   how many there are
    local  this process among those of its machine
    shard  each process has only a share of the body, so that all of them must go through it together
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    shard: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and decides."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process, of the kind `name`; each process has a GPU of its own.

        Raises ConfigError if there are too few.
        """
        kind, _, index = name.partition(":")
        cuda = torch.cuda.is_available()
        if self.size == 1 or not (kind == "cuda" or (kind == "auto" and cuda)):
            return name
        if index or self.local >= torch.cuda.device_count():
            raise ConfigError(
                f"--device {name}: each process needs a GPU of its own, and this machine has "
                f"{torch.cuda.device_count()}. Start as many processes as there are GPUs, with --device cuda."
            )
        return f"cuda:{self.local}"

    def check(self, config: RunConfig) -> None:
        """Raise ConfigError if a step does not have an example of each run for every process."""
        if config.batch_size < self.size:
            raise ConfigError(
                f"{self.size} processes cannot share {config.batch_size} examples per step. Raise --batch-size, or "
                "start fewer processes: one process can train several runs at once."
            )

    def folder(self, parent: Path, config: RunConfig) -> RunFolder:
        """A run's folder as this process sees it."""
        return RunFolder(parent, config) if self.is_main else SecondaryRunFolder(parent, config)

    def share(self, batch: Batch, runs: int) -> tuple[Batch, Tensor | slice]:
        """This process's rows of a run-major batch (R * B), and their indices in it, on the CPU.

        Each run's rows are distributed by length, so that all processes have about equally many tokens.
        """
        if self.size == 1:
            return batch, slice(None)
        B = len(batch) // runs
        order = torch.arange(B).expand(runs, B)
        if batch.lengths is not None:
            order = batch.lengths.view(runs, B).argsort(descending=True, stable=True)
        places = order[:, self.rank :: self.size] + torch.arange(runs)[:, None] * B
        return batch.rows(places.flatten()), places.flatten()

    def sum(self, *tensors: Tensor) -> None:
        """Add up tensors (R, ...) of one type over all processes, in place, in one exchange."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def in_step(self, passes: Iterable[Value], spare: Value | None = None) -> Iterator[tuple[Value, bool]]:
        """The passes of this process through the body, each with whether it counts.

        If the body is sharded, all processes must make equally many passes: one with fewer repeats its last pass, or
        makes the `spare` one.
        """
        if not self.shard:
            yield from ((each, True) for each in passes)
            return
        mine = list(passes)
        longest = torch.tensor(len(mine))
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        yield from ((each, True) for each in mine)
        extra = mine[-1] if mine else spare
        for _ in range(int(longest) - len(mine)):
            assert extra is not None
            yield extra, False

    def broadcast(self, value: Value) -> Value:
        """The first process's value, in all processes."""
        if self.size == 1:
            return value
        values: list[Value] = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]


#: this process alone
ALONE = World()


def launched_processes() -> int:
    """The number of processes that were started together, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def join_processes(shard: bool = False) -> Iterator[World]:
    """Join the processes that torchrun (or another launcher that sets its variables) started, and leave at the end.

    Raises ConfigError if a body is to be sharded but there is only one process.
    """
    if launched_processes() == 1:
        if shard:
            raise ConfigError(
                "--shard divides the body among processes, but there is only one. Start several with "
                "`torchrun --nproc-per-node=N -m icecore train ...`."
            )
        yield ALONE
        return
    # both, because values that are broadcast are in main memory
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)  # the device that NCCL uses if no tensor names one
    store, rank, size = next(rendezvous("env://", timeout=PROCESS_TIMEOUT))
    store = PrefixStore(agree_on_store_prefix(store, rank, size), store)
    dist.init_process_group(backend, timeout=PROCESS_TIMEOUT, store=store, rank=rank, world_size=size)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), local, shard)
    finally:
        if shard:
            _forget_sharded_bodies()
        dist.destroy_process_group()


def _forget_sharded_bodies() -> None:
    """Drop the reference cycles and DTensor caches that keep a sharded body's mesh, and with it the process group."""
    from torch.distributed.tensor import debug

    gc.collect()
    if clear := getattr(debug, "_clear_sharding_prop_cache", None):
        clear()


def agree_on_store_prefix(store: Store, rank: int, size: int) -> str:
    """A key prefix that all processes of this start share and that no earlier start had.

    torchrun keeps one store over its restarts (pytorch issue 135712). Without a prefix, a process would read the
    address that a dead process left in the store, and wait for it or fail. The number of restarts would not do as a
    prefix, because each machine counts them by itself.

    The first process chooses the prefix and answers each other process with that process's own random name followed
    by the prefix. So no process accepts an answer of an earlier start, and the first one continues only when all have
    confirmed.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"process {rank}", mine)
        while not (answer := store.get(f"answer {rank}").decode()).startswith(mine):
            time.sleep(0.01)
        name = answer.removeprefix(mine)
        store.set(f"process {rank}", name)
        return name
    waiting = set(range(1, size))
    while waiting:
        called = {other: store.get(f"process {other}").decode() for other in waiting}
        waiting = {other for other in waiting if called[other] != mine}
        for other in waiting:
            store.set(f"answer {other}", called[other] + mine)
        time.sleep(0.01)
    return mine


def shard_backbone(model: FPT, device: torch.device) -> None:
    """Shard the body over the processes, in place, by FSDP2 (`fully_shard`); a pass gathers one block after another.

    Norms stay whole, since programs bring gains of their own. Raises ConfigError for a body that cannot be sharded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    backbone = model.backbone
    if not (blocks := backbone.transformer_blocks()):
        raise ConfigError(f"--shard divides the blocks of a transformer, but {backbone.info.name} has none.")
    if model.body_trained:
        raise ConfigError(
            "--shard divides frozen weights only. Train no other roles than input, norm, position and output."
        )
    if model.precision == "int8":
        raise ConfigError(
            "--shard divides fp32 and bf16 weights only. Leave it out: 8-bit weights take a quarter of the memory."
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = {parameter for norm in backbone.norms().values() for parameter in norm.parameters()}
    for module in (*blocks, backbone):  # the body last, because it starts and ends what its blocks do
        fully_shard(module, mesh=mesh, ignored_params=whole)
    # norms end in a view, but nothing in a body changes a block's output in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
