"""The protocols: how runs are trained and scored unless a setting says otherwise, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """How runs are trained and scored.

    lr_factors      learning rate of a role, relative to the learning rate of the run
    faults          names of faults in the paper's code that runs of this protocol reproduce
    lr_scale, averaging, position_start  as the settings of a run
    """

    summary: str
    dropout: float
    schedule: str
    warmup: float
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    faults: frozenset[str] = frozenset()
    lr_scale: str | None = None
    averaging: float | None = None
    position_start: float | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that a run has from its protocol where it does not say otherwise."""
        names = ("dropout", "schedule", "warmup", "lr_factors", "lr_scale", "averaging", "position_start")
        return {name: getattr(self, name) for name in names}


PROTOCOLS: Mapping[str, Protocol] = {
    # Dropout 0: a frozen body underfits (paper, Table 7), so dropout only slows it down.
    # Factors: with one rate for all roles, the output layer is too fast for the positions (docs/method.md).
    "fair": Protocol(
        "validation split, test set once, faults fixed", 0.0, "cosine", 0.05, {"position": 3.0, "output": 0.3}
    ),
    "paper": Protocol(
        "the paper's settings, with the faults of its code where they change numbers",
        0.1,
        "constant",
        0.0,
        {},
        frozenset({"listops-tokens", "no-mask", "choose-on-test", "homology-valid"}),
    ),
    # As fair, with less training to the same accuracy, for every kind of body (docs/method.md has the evidence).
    "fast": Protocol(
        "as fair, but quicker to the same accuracy",
        0.0,
        "cosine",
        0.01,
        {"position": 3.0, "output": 0.3},
        lr_scale="relative",
        averaging=0.1,
        position_start=1.0,
    ),
}

DEFAULT_PROTOCOL = "fast"

#: settings of a pretraining where none are given. Its rates are absolute, as "fair" has them, because all of the body
#: is trained: steps relative to a random matrix are too small for it to leave its start.
PRETRAINING_DEFAULTS: Mapping[str, object] = {"protocol": "fair", "lr": 1e-3}
