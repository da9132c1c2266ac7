"""How a pack of runs is executed: where, in what portions, watched by whom. None of it is part of a run's id."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from icecore.backbones.modules.kernels import can_compile
from icecore.core.config import RunConfig
from icecore.core.device import Runtime
from icecore.model.fpt import FPT
from icecore.training.distributed import ALONE, World, shard_backbone


class Callback(Protocol):
    """Who is told how training goes (a progress display, a test)."""

    def waiting(self, run_id: str) -> None:
        """Another process is training this run."""

    def begin(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        """A pack starts or resumes at `step`."""

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        """Mean training loss by run id since the last call."""

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Validation metric by run id."""

    def finished(self, summaries: Sequence[Mapping[str, Any]]) -> None:
        """The pack is done."""


@dataclass(frozen=True)
class Execution:
    """How a pack is run; none of it changes results.

    out                 parent of the run folders
    micro_batch         rows of each run per pass (None: as many as memory holds); the gradient is the same
    checkpoint_seconds  at most this long between states; evaluations always write one
    feature_memory      bytes of cached features held in memory, more in a file (None: a share of the machine's)
    compile             elementwise work as compiled kernels (None: where training is long enough to pay for it)
    world               processes that train together
    """

    out: Path
    runtime: Runtime
    micro_batch: int | None = None
    checkpoint_seconds: float = 30.0
    feature_memory: int | None = None
    compile: bool | None = None
    watchers: Sequence[Callback] = ()
    world: World = ALONE

    def place(self, model: FPT) -> FPT:
        """The model on the device, its body divided among the processes where that was asked for."""
        if self.world.shard:
            shard_backbone(model, self.runtime.device)
        return model.to(self.runtime.device)


#: arithmetic (floating-point operations) from which a training pays back the seconds that compiling takes
COMPILE_FROM = {"cpu": 5e13, "cuda": 5e16}


def pays_to_compile(model: FPT, passes: int, training: bool = True) -> bool:
    """Whether compiled kernels are there, and `passes` rows through the body (of all runs together) enough for them.

    A function of what is asked for, never of measured time, so that a resumed run computes as it would have.
    """
    device = next(model.parameters()).device
    # two operations a weight and token forward, and as many for the gradient of the input
    work = (4 if training else 2) * model.counts()[1] * model.spec.length * passes
    return work >= COMPILE_FROM.get(device.type, math.inf) and can_compile(device)
