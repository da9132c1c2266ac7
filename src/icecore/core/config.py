"""One run's configuration: a frozen value with its validation, JSON in and out, and a stable id.

Whatever changes a run's result is here, and nothing else: devices, folders and micro-batches are not,
so the same configuration has the same id everywhere.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from icecore.core.errors import ConfigError, unknown_name

INPUT, OUTPUT = "input", "output"
BODY_ROLES = ("norm", "position", "attention", "feedforward", "embedding", "other")
ROLES = (INPUT, OUTPUT, *BODY_ROLES)
#: roles whose parameters have no run axis: a pack that trains them holds one run
SINGLE_ROLES = frozenset({"attention", "feedforward", "embedding", "other"})
#: what the paper trains (Section 2)
FPT_ROLES = (INPUT, "norm", OUTPUT, "position")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("fp32", "bf16", "int8")
#: settings younger than the first results, None where they are not used
LATER = frozenset({"start"})


@dataclass(frozen=True)
class Protocol:
    """How runs are made and judged.

    lr_factors  learning rate of a role, relative to the run's
    faults      faults of the published code that are kept on purpose
    """

    summary: str
    dropout: float
    schedule: str
    warmup: float
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    faults: frozenset[str] = frozenset()


PROTOCOLS: Mapping[str, Protocol] = {
    # Dropout 0: a frozen body underfits (paper, Table 7), so dropout only slows it down.
    # Factors: with one rate for all, the output layer is too fast for the positions (docs/method.md).
    "fair": Protocol(
        "validation split, test set once, faults mended", 0.0, "cosine", 0.05, {"position": 3.0, "output": 0.3}
    ),
    "paper": Protocol(
        "the paper's settings, with the faults of its code where they change numbers",
        0.1,
        "constant",
        0.0,
        {},
        frozenset({"listops-tokens", "no-mask", "choose-on-test", "homology-valid"}),
    ),
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the result of one run.

    lr            peak learning rate of Adam
    lr_factors    learning rate of a role relative to `lr` (1 where not named)
    warmup        share of `steps` over which the learning rate rises linearly
    clip          largest norm of the run's gradient
    eval_every    steps between validations; the best validated state is kept
    eval_examples validation examples of each evaluation in training (the final one uses all)
    test_examples scores only the first so many examples at the end, for trying things out; None: all
    patience      evaluations without improvement after which the run stops; None: never
    stop_at       validation metric at which the run stops; None: never
    body_seed     seed of random body weights: one body for all runs of a pack, so not `seed`
    start         program file whose tensors the run starts from, as far as they fit; None: from its seed
    """

    task: str
    steps: int
    batch_size: int
    lr: float
    task_options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "minilm"
    weights: str = "pretrained"
    layers: int | None = None
    body_seed: int = 0
    train_roles: tuple[str, ...] = FPT_ROLES
    input_hidden: tuple[int, ...] = ()
    output_hidden: tuple[int, ...] = ()
    protocol: str = "fair"
    seed: int = 0
    precision: str = "fp32"
    schedule: str = "cosine"
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    warmup: float = 0.05
    clip: float = 1.0
    dropout: float = 0.0
    eval_every: int = 200
    eval_examples: int = 1000
    test_examples: int | None = None
    patience: int | None = None
    stop_at: float | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        check_types(vars(self))
        # one canonical form: equal configurations have equal JSON and so equal ids (lr 1 and 1.0, lists and tuples)
        canonical: dict[str, Any] = {
            "train_roles": tuple(sorted(set(self.train_roles))),
            "input_hidden": tuple(self.input_hidden),
            "output_hidden": tuple(self.output_hidden),
            "lr_factors": {role: float(factor) for role, factor in sorted(dict(self.lr_factors).items())},
            "task_options": json.loads(json.dumps(dict(self.task_options))),
            "stop_at": None if self.stop_at is None else float(self.stop_at),
            **{name: float(getattr(self, name)) for name in ("lr", "warmup", "clip", "dropout")},
        }
        for name, value in canonical.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        for role in (*self.train_roles, *self.lr_factors):
            if role not in ROLES:
                raise unknown_name("role", role, ROLES)
        for role, factor in self.lr_factors.items():
            _require(math.isfinite(factor) and factor > 0, f"lr_factors of {role}", "a positive number", factor)
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if not self.train_roles:
            raise ConfigError(f"nothing is trained: name at least one role of {', '.join(ROLES)}")
        for name in ("steps", "batch_size", "eval_every", "eval_examples"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(math.isfinite(self.lr) and self.lr > 0, "lr", "a positive number", self.lr)
        for name in ("seed", "body_seed"):
            _require(0 <= getattr(self, name) < 2**63, name, "0 to 2**63 - 1", getattr(self, name))
        _require(self.stop_at is None or math.isfinite(self.stop_at), "stop_at", "a number", self.stop_at)
        _require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        _require(0 <= self.warmup <= 1, "warmup", "a share of the steps in [0, 1]", self.warmup)
        _require(self.clip > 0, "clip", "a positive number", self.clip)
        for name in ("input_hidden", "output_hidden"):
            _require(min(getattr(self, name), default=1) >= 1, name, "widths of at least 1", getattr(self, name))
        _require(
            self.test_examples is None or self.test_examples >= 1, "test_examples", "at least 1", self.test_examples
        )
        _require(self.patience is None or self.patience >= 1, "patience", "at least 1", self.patience)

    @property
    def run_id(self) -> str:
        """Twelve hex digits that name this configuration; equal configurations have equal ids."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @property
    def body(self) -> tuple[str, str, int | None, int]:
        """What decides the body: name, weights, layers and seed. Equal ones are the same body."""
        return self.backbone, self.weights, self.layers, self.body_seed

    @property
    def faults(self) -> frozenset[str]:
        """Faults of the published code that this run keeps."""
        return PROTOCOLS[self.protocol].faults

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        values = dataclasses.asdict(self)
        # runs made before a setting existed keep their ids
        held = {name: value for name, value in values.items() if value is not None or name not in LATER}
        return json.dumps(held, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """The inverse of `to_json`. Raises ConfigError for text that is not a configuration."""
        try:
            values = json.loads(text)
            known = {f.name for f in dataclasses.fields(cls)}
            for name in values:
                if name not in known:
                    raise unknown_name("setting", name, known)
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"not a run configuration: {error}") from error

    def pack_key(self) -> str:
        """Equal for runs that can share one pack: everything but learning rate and seed is the same."""
        alone = f"{self.lr} {self.seed}" if SINGLE_ROLES & set(self.train_roles) else ""
        return dataclasses.replace(self, lr=1.0, seed=0).to_json() + alone

    def lr_at(self, step: int) -> float:
        """Learning rate of step `step` (from 0)."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "constant":
            return self.lr
        progress = (step - warm) / max(1, self.steps - warm)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def check_types(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting whose value cannot be of its field's type, say text for a number."""
    hints = {field.name: field.type for field in dataclasses.fields(RunConfig)}
    kinds: dict[Any, tuple[type, ...]] = {
        int: (int,),
        float: (int, float),
        str: (str,),
        int | None: (int, NoneType),
        float | None: (int, float, NoneType),
    }
    for name, value in settings.items():
        _check_parts(name, value)
        kind = kinds.get(hints.get(name))
        if kind is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ConfigError(f"{name}: expected {'text' if str in kind else 'a number'}, found {value!r}")


def _check_parts(name: str, value: object) -> None:
    """`check_types` of settings that hold several values."""
    if name in ("train_roles", "input_hidden", "output_hidden"):
        kind, what = (str, "roles") if name == "train_roles" else (int, "widths")
        parts = list(value) if isinstance(value, Collection) and not isinstance(value, str | Mapping) else None
        if parts is None or any(not isinstance(part, kind) or isinstance(part, bool) for part in parts):
            raise ConfigError(f"{name}: expected a list of {what}, found {value!r}")
    if name in ("lr_factors", "task_options") and not isinstance(value, Mapping):
        raise ConfigError(f"{name}: expected a table of names and values, found {value!r}")
    if name == "lr_factors" and isinstance(value, Mapping):
        for role, factor in value.items():
            if not isinstance(factor, int | float) or isinstance(factor, bool):
                raise ConfigError(f"lr_factors of {role}: expected a number, found {factor!r}")


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"{name}: expected {expected}, found {found}")
