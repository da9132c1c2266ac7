"""FitSettings: the options of `icecore.fit`, of the command `icecore fit` and of the scikit-learn estimators.

Type, default, help text and check of each option are here, and only here.
"""

import dataclasses
from typing import Any

from icecore.core.config import COMPUTATION, MAX_SEED, PRECISIONS, TRAINING, RunConfig
from icecore.core.settings import at_least, check_settings, must, one_of, positive, setting

#: half a decade apart, around the learning rates that suit most tasks
DEFAULT_LRS = (3e-4, 1e-3, 3e-3, 1e-2)


def _as_in_run_config(name: str) -> Any:
    """The setting of `RunConfig` with this name."""
    field = next(field for field in dataclasses.fields(RunConfig) if field.name == name)
    return setting(field.default, **field.metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a program is fitted. The help text of each field says what it is. Raises ConfigError for a wrong value."""

    backbone: str = _as_in_run_config("backbone")
    weights: str = _as_in_run_config("weights")
    layers: int | None = _as_in_run_config("layers")
    start: str | None = _as_in_run_config("start")
    minutes: float = setting(
        5.0,
        help="Approximate time of the sweep. Each control takes about as long again, or less.",
        check=must(lambda minutes: minutes > 0, "more than 0"),
        group=TRAINING,
    )
    steps: int | None = setting(
        None,
        help="Training steps of each run, instead of as many as fit into the minutes.",
        check=at_least(1),
        group=TRAINING,
        default_note="as many as fit into the minutes",
    )
    lrs: tuple[float, ...] = setting(
        DEFAULT_LRS,
        help="Learning rates, which are trained together. Validation chooses one of them.",
        check=must(lambda lrs: bool(lrs) and all(map(positive, lrs)), "at least one learning rate above 0"),
        group=TRAINING,
    )
    race: bool = setting(
        True,
        help="Stop learning rates that are behind after 1/10, 1/4 and 3/5 of the steps. The time goes to the others.",
        group=TRAINING,
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        help="Seeds, which are trained together. With several, controls are compared by means over seeds.",
        check=must(lambda seeds: bool(seeds) and all(0 <= seed <= MAX_SEED for seed in seeds), "at least one seed"),
        group=TRAINING,
    )
    closed_form: bool = setting(
        True,
        help="Start from an output layer that is solved in closed form, and keep it unless training is clearly better.",
        group=TRAINING,
    )
    batch_size: int = setting(16, help="Rows per step of each run.", check=at_least(1), group=TRAINING)
    # A start in closed form tells rows apart by small differences of their features, which bf16 would round away.
    precision: str = setting(
        "fp32",
        help="Precision of the frozen matrix products: auto, fast, fp32, bf16 or int8.",
        check=one_of("precision", ("auto", "fast", *PRECISIONS)),
        group=COMPUTATION,
    )
    controls: bool = setting(
        False,
        help="Also train controls: a random body, no body, and models of scikit-learn.",
        group=TRAINING,
    )

    def __post_init__(self) -> None:
        for name in ("lrs", "seeds"):  # one number or several
            value = getattr(self, name)
            if isinstance(value, int | float):
                object.__setattr__(self, name, (value,))
        check_settings(self)
