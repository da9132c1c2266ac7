"""The configuration of one run: a frozen value that is checked, written as JSON, and named by a stable id.

It holds everything that changes the result of a run, and nothing else. Devices, folders and micro-batches are
not part of it, so the same configuration has the same id everywhere.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from icecore.core.errors import ConfigError
from icecore.core.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from icecore.core.read_outs import check_read_out
from icecore.core.settings import (
    at_least,
    check_settings,
    from_values,
    is_whole_number,
    must,
    one_of,
    positive,
    setting,
)
from icecore.core.text import shortened

INPUT, OUTPUT = "input", "output"
BODY_ROLES = ("norm", "position", "attention", "feedforward", "embedding", "other")
ROLES = (INPUT, OUTPUT, *BODY_ROLES)
#: roles whose parameters have no run axis, so a pack that trains one of them holds a single run
SINGLE_ROLES = frozenset({"attention", "feedforward", "embedding", "other"})
#: what the paper trains (Section 2)
FPT_ROLES = (INPUT, "norm", OUTPUT, "position")
SCHEDULES = ("constant", "cosine")
LR_SCALES = ("absolute", "relative")
#: the prefix that is the body's own token for the start of a sequence
BOS = "bos"
#: weights that depend on the body's seed
DRAWN_WEIGHTS = ("random", "statistics")
MAX_PREFIX = 1024
INPUT_NORMS = ("rms",)
#: the one `output_start` besides random numbers, and the one `tie_break` besides the earlier step
RIDGE, LOSS = "ridge", "loss"
#: the `output_refit` that keeps the trained output layer of a state for which it is better on validation data
RIDGE_IF_BETTER = "ridge-if-better"
PRECISIONS = ("fp32", "bf16", "int8")
#: Settings that were added after the first results. They are left out of the JSON while they are None, so that
#: older runs keep their ids.
OMITTED_IF_NONE = frozenset(
    {
        "start",
        "lr_scale",
        "averaging",
        "position_start",
        "input_scale",
        "output_start",
        "output_refit",
        "start_examples",
        "tie_break",
        "minutes",
        "read_out",
        "prefix",
        "input_norm",
        "input_start",
    }
)
MAX_SEED = 2**63 - 1


def is_drawn(weights: str, backbone: str) -> bool:
    """Whether a body is a random draw, so that a comparison needs several of them."""
    return weights in DRAWN_WEIGHTS and backbone != "none"


def prefix_length(prefix: str | None) -> int:
    """K, the number of vectors before the first token, that a value of --prefix asks for."""
    return 0 if prefix is None else 1 if prefix == BOS else int(prefix)


# Headings of the command line's help, and where defaults come from that RunConfig alone does not know.
BODY, TRAINED, TRAINING, VALIDATION = "Body", "Trained parts", "Training", "Validation and stopping"
COMPUTATION = "Computation"
FROM_TASK, FROM_PROTOCOL = "from the task", "from the protocol"


def _check_roles(name: str, roles: Collection[str]) -> None:
    """Check the roles of a list, or of the keys of a table."""
    for role in roles:
        one_of("role", ROLES)(name, role)


def _check_prefix(name: str, prefix: str) -> None:
    if prefix != BOS and not is_whole_number(prefix, 1, MAX_PREFIX):
        raise ConfigError(f"{name}: expected {BOS} or a number from 1 to {MAX_PREFIX:,}, found {shortened(prefix)}")


def _check_train_roles(name: str, roles: Collection[str]) -> None:
    _check_roles(name, roles)
    if not roles:
        raise ConfigError(f"{name}: nothing would be trained. Name at least one role of {', '.join(ROLES)}.")


def _check_lr_factors(name: str, factors: Mapping[str, float]) -> None:
    _check_roles(name, factors)
    for role, factor in factors.items():
        _is_positive(f"{name} of {role}", factor)


_is_positive = must(positive, "a positive number")
_is_seed = must(lambda seed: 0 <= seed <= MAX_SEED, "0 to 2**63 - 1")
_are_widths = must(lambda widths: min(widths, default=1) >= 1, "widths of at least 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the result of one run. The help text of each field says what it is."""

    task: str = setting(help="Name of the task. `icecore tasks` lists them.", group=TRAINING)
    steps: int = setting(help="Number of training steps.", check=at_least(1), group=TRAINING, default_note=FROM_TASK)
    batch_size: int = setting(
        help="Examples per step of each run.", check=at_least(1), group=TRAINING, default_note=FROM_TASK
    )
    lr: float = setting(help="Peak learning rate of Adam.", check=_is_positive, group=TRAINING, default_note=FROM_TASK)
    task_options: Mapping[str, Any] = setting(
        default_factory=dict,
        help="An option of the task, for example n=20. Repeat it for more options.",
        group=TRAINING,
    )
    backbone: str = setting(
        "minilm",
        help="Frozen body: a name that `icecore backbones` lists, a model folder, a GGUF file or org/model on the "
        "Hugging Face hub.",
        group=BODY,
    )
    weights: str = setting(
        "pretrained", help="Weights of the body: pretrained, random, statistics, or the path of a file.", group=BODY
    )
    layers: int | None = setting(
        None, help="Number of the body's layers to use, counted from the input.", group=BODY, default_note="all"
    )
    body_seed: int = setting(
        # one body serves all runs of a pack, so this is not `seed`
        0,
        help="Seed of random body weights.",
        check=_is_seed,
        group=BODY,
    )
    train_roles: tuple[str, ...] = setting(
        FPT_ROLES,
        help="Parts to train, any of: " + ", ".join(ROLES) + ".",
        check=_check_train_roles,
        group=TRAINED,
    )
    input_hidden: tuple[int, ...] = setting(
        (),
        help="Hidden widths of an MLP as input layer, for example 256.",
        check=_are_widths,
        group=TRAINED,
        default_note="a linear layer",
    )
    output_hidden: tuple[int, ...] = setting(
        (),
        help="Hidden widths of an MLP as output layer.",
        check=_are_widths,
        group=TRAINED,
        default_note="a linear layer",
    )
    read_out: str | None = setting(
        None,
        help="Which hidden states the output layer reads: that of the last or first position, the mean of all, or "
        "with pool-N the means of N equal parts of the sequence. Several are joined by + and read side by side, as in "
        "last+pool-4. Only for tasks with one answer.",
        check=check_read_out,
        group=TRAINED,
        default_note=FROM_TASK,
    )
    prefix: str | None = setting(
        None,
        help="Trained vectors before the first token: a number of them, which start at random, or bos for the token "
        "with which the body's own sequences start.",
        check=_check_prefix,
        group=BODY,
        default_note="none",
    )
    input_norm: str | None = setting(
        None,
        help="Norm after the input layer: rms gives every token the size of the body's token embeddings.",
        check=one_of("input_norm", INPUT_NORMS),
        group=BODY,
        default_note="none",
    )
    protocol: str = setting(
        DEFAULT_PROTOCOL,
        help="How runs are trained and scored: fast, fair (without what makes fast quicker), or paper (the published "
        "settings with their faults).",
        check=one_of("protocol", PROTOCOLS),
        group=TRAINING,
    )
    seed: int = setting(
        0, help="Seed of the initial values and of the order of the data.", check=_is_seed, group=TRAINING
    )
    precision: str = setting(
        "fp32",
        help="Precision of the frozen matrix products: fp32, bf16 or int8.",
        check=one_of("precision", PRECISIONS),
        group=COMPUTATION,
    )
    schedule: str = setting(
        "cosine",
        help="Schedule of the learning rate after the warm-up: constant or cosine.",
        check=one_of("schedule", SCHEDULES),
        group=TRAINING,
        default_note=FROM_PROTOCOL,
    )
    lr_factors: Mapping[str, float] = setting(
        default_factory=dict,
        help="Learning rates of parts relative to the run's, for example position=3,output=0.3.",
        check=_check_lr_factors,
        group=TRAINING,
        default_note=FROM_PROTOCOL,
    )
    lr_scale: str | None = setting(
        None,
        help="Whether a step of the body's tensors (norms, and weights if they are trained) is relative to the size of "
        "their values: absolute or relative.",
        check=one_of("lr_scale", LR_SCALES),
        group=TRAINING,
        default_note=FROM_PROTOCOL,
    )
    averaging: float | None = setting(
        None,
        help="Score and keep the average of the trained parameters over about this share of the steps so far, for "
        "example 0.15.",
        check=must(lambda share: 0 < share <= 1, "a share of the steps in (0, 1]"),
        group=TRAINING,
        default_note=FROM_PROTOCOL,
    )
    warmup: float = setting(
        0.05,
        help="Share of the steps over which the learning rate rises linearly.",
        check=must(lambda share: 0 <= share <= 1, "a share of the steps in [0, 1]"),
        group=TRAINING,
        default_note=FROM_PROTOCOL,
    )
    clip: float = setting(
        1.0,
        help="Largest norm of a run's gradient; longer gradients are scaled down to it.",
        # an infinite norm switches clipping off
        check=must(lambda norm: norm > 0, "a positive number"),
        group=TRAINING,
    )
    dropout: float = setting(
        0.0,
        help="Rate of every dropout in the body.",
        check=must(lambda rate: 0 <= rate < 1, "a rate in [0, 1)"),
        group=TRAINING,
        default_note=FROM_PROTOCOL,
    )
    eval_every: int = setting(
        200,
        help="Steps between validations. The state with the best validation is kept.",
        check=at_least(1),
        group=VALIDATION,
        default_note=FROM_TASK,
    )
    eval_examples: int = setting(
        1000,
        help="Examples of each validation during training. The final one uses all.",
        check=at_least(1),
        group=VALIDATION,
    )
    test_examples: int | None = setting(
        None,
        help="Score only this many test examples at the end, for a quick trial.",
        check=at_least(1),
        group=VALIDATION,
        default_note="all",
    )
    patience: int | None = setting(
        None,
        help="Stop after this many validations without improvement.",
        check=at_least(1),
        group=VALIDATION,
        default_note="never",
    )
    stop_at: float | None = setting(
        None,
        help="Stop when the validation metric reaches this value.",
        check=must(math.isfinite, "a finite number"),
        group=VALIDATION,
        default_note="never",
    )
    position_start: float | None = setting(
        None,
        help="Spread of the positions at the start, relative to that of the body's token embeddings, for bodies "
        "without a position table.",
        check=_is_positive,
        group=BODY,
        default_note=FROM_PROTOCOL,
    )
    input_scale: float | None = setting(
        None,
        help="Factor on the input layer's weights at the start. With small ones, the body is nearly linear at first.",
        check=_is_positive,
        group=BODY,
        default_note="1",
    )
    input_start: float | None = setting(
        None,
        help="Size of the input layer's outputs at the start, relative to the spread of the body's token embeddings, "
        "for tokens with a mean square of 1.",
        check=_is_positive,
        group=BODY,
        default_note="orthogonal weights with gain 1.41",
    )
    output_start: str | None = setting(
        None,
        help="Start of the output layer: ridge solves it in closed form on the features of the fresh program.",
        check=one_of("output_start", (RIDGE,)),
        group=BODY,
        default_note="random numbers",
    )
    output_refit: str | None = setting(
        None,
        help="Which output layer is scored and saved at each validation: the trained one, or one that ridge regression "
        "solves on the features of the trained program. ridge-if-better saves whichever validates better. Training "
        "itself continues with the trained one.",
        check=one_of("output_refit", (RIDGE, RIDGE_IF_BETTER)),
        group=VALIDATION,
        default_note="the trained one",
    )
    start_examples: int | None = setting(
        None,
        help="Training examples on which an output layer is solved in closed form. There are at most 30,000 rows, or "
        "6,144 if the output layer reads more than 6,144 numbers (in a refit 2,048), and each position that is read of "
        "an example is a row.",
        check=at_least(1),
        group=BODY,
        default_note="as many as that allows; for a refit, as many as were trained on",
    )
    tie_break: str | None = setting(
        None,
        help="Which of two states with equal validation metrics is kept: loss keeps the one with the lower loss.",
        check=one_of("tie_break", (LOSS,)),
        group=VALIDATION,
        default_note="the earlier one",
    )
    minutes: float | None = setting(
        None,
        help="Time for training and validations. The schedule ends when the time does, whatever the speed, so the "
        "number of steps may differ from the plan.",
        check=must(lambda minutes: minutes > 0, "more than 0"),
        group=TRAINING,
        default_note="as long as the steps take",
    )
    start: str | None = setting(
        None,
        help="Program file to start from. Its tensors are used as far as they fit.",
        group=BODY,
        default_note="a fresh start",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        # One canonical form: equal configurations have equal JSON and so equal ids.
        canonical: dict[str, Any] = {
            "train_roles": tuple(sorted(set(self.train_roles))),
            "lr_factors": dict(sorted(self.lr_factors.items())),
            "task_options": json.loads(json.dumps(self.task_options)),
        }
        for name, value in canonical.items():
            object.__setattr__(self, name, value)

    @property
    def run_id(self) -> str:
        """Twelve hex digits that name this configuration; equal configurations have equal ids."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @property
    def body(self) -> tuple[str, str, int | None, int]:
        """Name, weights, layers and seed of the body. Two runs with equal ones share a body."""
        return self.backbone, self.weights, self.layers, self.body_seed

    @property
    def faults(self) -> frozenset[str]:
        """Names of the faults in the paper's code that this run reproduces."""
        return PROTOCOLS[self.protocol].faults

    @property
    def prefix_length(self) -> int:
        """K, the number of vectors before the first token."""
        return prefix_length(self.prefix)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        values = dataclasses.asdict(self)
        written = {name: value for name, value in values.items() if value is not None or name not in OMITTED_IF_NONE}
        return json.dumps(written, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """The inverse of `to_json`. Raises ConfigError if `text` is not a run configuration."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"This is not a run configuration: {error}") from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"This is not a run configuration: expected a JSON object, found {text[:40]!r}")
        return from_values(cls, values)

    def sweep_key(self) -> str:
        """A text that is equal for runs of one sweep: they differ in learning rate and seed only."""
        return dataclasses.replace(self, lr=1.0, seed=0).to_json()

    def pack_key(self) -> str:
        """A text that is equal for runs that can share one pack: those of one sweep, unless they train the body."""
        distinct = f"{self.lr} {self.seed}" if SINGLE_ROLES & set(self.train_roles) else ""
        return self.sweep_key() + distinct

    def lr_at(self, step: float) -> float:
        """Learning rate of a step, counted from 0; between two steps if the schedule follows the clock."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "constant":
            return self.lr
        progress = (step - warm) / max(1, self.steps - warm)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
