"""How far a run of a pack has come."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from icecore.core.config import LOSS, RunConfig
from icecore.training.checkpoint import RunFolder
from icecore.training.run_summary import BEHIND


@dataclass
class RunProgress:
    """Counters of one run that resuming needs besides tensors.

    best_loss  validation loss of the best state
    position   how far its schedule is, in steps
    race       if it is behind in a race: the ids of all runs in that race
    seconds    wall time of the packs that it was trained in
    share      its share of that time: the time of each pack divided by its active runs
    """

    best_metric: float | None = None
    best_step: int = 0
    stale: int = 0
    best_loss: float | None = None
    position: float = 0.0
    stopped: str | None = None
    race: tuple[str, ...] = ()
    seconds: float = 0.0
    share: float = 0.0
    final: dict[str, Any] | None = None

    def improves(self, metric: float, loss: float, tie_break: str | None) -> bool:
        """Whether a state with these scores on validation is better than the best one so far."""
        return is_better((metric, loss), (self.best_metric, self.best_loss), tie_break)


def is_better(scores: tuple[float, float], other: tuple[float | None, float | None], tie_break: str | None) -> bool:
    """Whether a state with these scores, a metric and a loss, is better than another one (None: there is none).

    A metric that is not finite is never better: a NaN that was once the best would stay it for ever.
    """
    (metric, loss), (best_metric, best_loss) = scores, other
    if not math.isfinite(metric):
        return False
    if best_metric is None or math.isnan(best_metric) or metric > best_metric:
        return True
    if tie_break != LOSS or metric < best_metric:
        return False
    return loss < (math.inf if best_loss is None or math.isnan(best_loss) else best_loss)


@dataclass(eq=False)
class PackedRun:
    """A run in a pack. `best` (K,) are the trained numbers of the state with the best validation metric."""

    config: RunConfig
    folder: RunFolder
    initial: dict[str, Tensor]
    best: Tensor | None = None
    progress: RunProgress = field(default_factory=RunProgress)

    @property
    def was_validated(self) -> bool:
        """Whether it was validated before."""
        return self.best is not None or self.progress.stale > 0

    @property
    def has_program(self) -> bool:
        """Whether the run ends with a program: it has a validated state, and is not behind in a race."""
        return self.best is not None and self.progress.stopped != BEHIND
