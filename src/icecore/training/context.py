"""Where and how runs are executed. None of it changes the numbers of a finished run or is part of a run's id."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icecore.backbones import Backbone, build_body_of
from icecore.core.config import SINGLE_ROLES, RunConfig
from icecore.core.device import Runtime, select_runtime
from icecore.model.fpt import FPT
from icecore.training.callbacks import Callback
from icecore.training.distributed import ALONE, World, shard_backbone


class BodyCache:
    """The body that was used last, so that a command builds and fingerprints each body once.

    Only bodies that stay frozen are shared. One is kept, since a body may take most of the memory.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._body: Backbone | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # other processes build their own
        return BodyCache, ()

    def get(self, config: RunConfig, runtime: Runtime) -> Backbone:
        """The body of a configuration. Raises what `build_body_of` raises."""
        key = (config.body, runtime.precision, runtime.device)
        if self._body is None or self._key != key:
            self._key = self._body = None  # never hold two
            self._body, self._key = build_body_of(config), key
        return self._body


@dataclass(frozen=True)
class ExecutionContext:
    """Where a group of runs computes and keeps its files, and which callbacks follow it.

    out                 parent of the run folders
    data_dir            folder with data files; None: ICECORE_DATA, then the cache folder
    device              "auto", "cpu", "cuda", "cuda:1" or "mps"
    micro_batch         rows of each run per pass (None: as many as memory allows); the gradient is the same
    resume              continue from the last state; otherwise start over
    wait                wait for runs that another process is training; otherwise raise BusyError
    race                stop learning rates that fall behind (`training/racing.py`); the others train as without it
    compile             compile the elementwise kernels (None: if that saves time, see `training/compilation.py`)
    callbacks           are called as training proceeds
    world               the processes that train together, this one among them
    checkpoint_seconds  longest time between states; every validation writes one as well
    feature_memory      bytes of cached features kept in memory, more go to a file (None: a share of the machine's)
    bodies              the bodies in use, shared by all runs of a command
    clock               seconds by which time boxes are kept: those of the wall, or of the work of this process
    """

    out: Path = Path("runs")
    data_dir: str | None = None
    device: str = "auto"
    micro_batch: int | None = None
    resume: bool = True
    wait: bool = True
    race: bool = False
    compile: bool | None = None
    callbacks: Sequence[Callback] = ()
    world: World = ALONE
    checkpoint_seconds: float = 30.0
    feature_memory: int | None = None
    bodies: BodyCache = field(default_factory=BodyCache, compare=False, repr=False)
    clock: Callable[[], float] = field(default=time.perf_counter, compare=False, repr=False)

    def runtime(self, config: RunConfig) -> Runtime:
        """Device and precision of a run. Raises ConfigError if this machine does not have them."""
        return select_runtime(self.device, config.precision)

    def backbone(self, config: RunConfig) -> Backbone:
        """The body of a run: shared if it stays frozen and whole, its own otherwise."""
        if self.world.shard or SINGLE_ROLES & set(config.train_roles):
            return build_body_of(config)
        return self.bodies.get(config, self.runtime(config))

    def place(self, model: FPT, runtime: Runtime) -> FPT:
        """The model on its device, with its body divided among the processes if that was requested."""
        if self.world.shard:
            shard_backbone(model, runtime.device)
        return model.to(runtime.device)
