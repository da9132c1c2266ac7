"""The results of a fit: what the program and each control reached on the rows that they are compared by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from icecore.model.program import Program

#: a training of fewer steps says little about its body
MIN_STEPS_FOR_VERDICT = 200
#: if the best state is later than this share of the steps, validation was still rising when the time was over
STILL_RISING_SHARE = 0.9


@dataclass(frozen=True)
class ModelResult:
    """What one model, the program or a control, reached on the scored split of N rows.

    scores            (N,) metric of each row, for the training with the best validation metric
    val_metric        its metric on the validation split
    seconds           time of the whole sweep
    lr, seed          learning rate and seed of that training; None for a baseline
    best_step         the step after which it was best on the validation split; 0 for its closed-form start
    steps             training steps that it made in all
    is_cut_off        the time ended its training before the planned number of epochs
    seed_scores       (S, N) the same as `scores` for each seed at one learning rate; None if no seed is involved
    seeds             the S seeds
    seeds_lr          their learning rate, the one with the best mean validation metric
    seed_val_metrics  (S,) the validation metric of each seed there
    logits            (N, 1, C) of that training; `targets` (N, 2, k) of the rows. For pages, not for files
    curves            validation metric over steps of its seed, by learning rate
    """

    name: str
    scores: Tensor
    val_metric: float
    seconds: float
    lr: float | None = None
    seed: int | None = None
    best_step: int | None = None
    steps: int | None = None
    is_cut_off: bool = False
    seed_scores: Tensor | None = None
    seeds: tuple[int, ...] = ()
    seeds_lr: float | None = None
    seed_val_metrics: tuple[float, ...] = ()
    logits: Tensor | None = None
    targets: Tensor | None = None
    curves: Mapping[float, Sequence[tuple[int, float]]] = field(default_factory=dict)

    @property
    def metric(self) -> float:
        """Mean of `scores` over the rows: the metric of the best training."""
        return float(self.scores.double().mean())

    @property
    def scores_by_seed(self) -> Tensor:
        """Scores (S, N) of the training of each seed, float64; S = 1 for a baseline."""
        return (self.scores[None] if self.seed_scores is None else self.seed_scores).double()

    @property
    def mean_metric(self) -> float:
        """Mean of the metric over seeds."""
        return float(self.scores_by_seed.mean())

    @property
    def variance_of_mean(self) -> float | None:
        """Variance that the choice of seeds adds to `mean_metric`; None if it is unknown, because there is one seed."""
        if self.seed_scores is None:
            return 0.0
        metrics = self.scores_by_seed.mean(1)
        return float(metrics.var() / len(metrics)) if len(metrics) > 1 else None

    @property
    def is_undertrained(self) -> bool:
        """Whether more time would have helped: training ended early, or while validation was still improving."""
        if self.steps is None or not self.is_cut_off:
            return False
        return self.steps < MIN_STEPS_FOR_VERDICT or (self.best_step or 0) > STILL_RISING_SHARE * self.steps

    def summary(self) -> dict[str, Any]:
        """The numbers for the header of a program file."""
        values: dict[str, Any] = {"metric": self.metric, "validation": self.val_metric, "examples": len(self.scores)}
        values |= {
            "lr": self.lr,
            "seed": self.seed,
            "steps": self.best_step,
            "trained_steps": self.steps,
            "seconds": round(self.seconds, 1),
        }
        if len(self.seeds) > 1:
            values |= {"seeds": list(self.seeds), "seeds_lr": self.seeds_lr}
            values |= {"seeds_mean": self.mean_metric, "seeds_error": math.sqrt(self.variance_of_mean or 0.0)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class FitResult:
    """A fitted program, its result, and the results of the controls.

    metric_name  name of the metric of all results
    split        the scored split: "test", or "validation" if there are no test rows
    verdict      whether the pretrained body helped, in a few sentences; empty without controls
    """

    program: Program
    result: ModelResult
    controls: tuple[ModelResult, ...] = ()
    metric_name: str = "accuracy"
    split: str = "test"
    verdict: str = ""
