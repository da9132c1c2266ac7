"""The measurements of time_to_accuracy.py on disk, one JSON line each, so that an interruption loses at most one."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from icecore.core.storage import write_atomic
from watching import Validation


@dataclass(frozen=True)
class Conditions:
    """Under which circumstances something was measured: machine, versions, date, and the benchmark's command."""

    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    date: str
    command: str


@dataclass(frozen=True)
class Measurement:
    """How long one side took to reach a goal.

    side         "ours" or "plain"
    settings     those of the side's run, `batch_size` among them
    command      what was run
    seconds      until the target was reached, or in which it was not reached
    step         of the validation that reached it, or None
    ended        whether the training ended by itself without reaching it
    validations  all of them until then
    """

    goal: str
    side: str
    settings: Mapping[str, Any]
    command: str
    seconds: float
    step: int | None
    ended: bool
    validations: tuple[Validation, ...]
    conditions: Conditions

    @property
    def reached(self) -> bool:
        """Whether the target was reached."""
        return self.step is not None

    @property
    def examples(self) -> int:
        """Training examples until the target was reached, or until the last validation.

        Those of a start in closed form are among them, and count again when they are trained on.
        """
        last = max((each.step for each in self.validations), default=0)
        step = last if self.step is None else self.step
        start = self.settings["start_examples"] if self.settings.get("output_start") else 0
        return step * self.settings["batch_size"] + start

    @property
    def best(self) -> float | None:
        """The best validation accuracy, or None if there was no validation."""
        return max((each.metric for each in self.validations), default=None)

    def until(self, target: float) -> "Measurement":
        """The same measurement as if it had been made for another target.

        On its way a side gets to a lower one, and a higher one it has not reached either if it reached neither. Then
        nothing but the target changes.
        """
        settings = {**self.settings, "stop_at": target}
        for number, each in enumerate(self.validations, 1):
            if each.metric >= target:
                seen = self.validations[:number]
                return replace(
                    self, settings=settings, seconds=each.seconds, step=each.step, ended=False, validations=seen
                )
        return replace(self, settings=settings)

    def to_json(self) -> str:
        """The measurement as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Measurement":
        """The inverse of `to_json`."""
        values = json.loads(line)
        values["validations"] = tuple(Validation(*each) for each in values["validations"])
        return cls(**values | {"conditions": Conditions(**values["conditions"])})


class Measurements:
    """The measurements in a file, which is replaced as a whole when one is added. Without a path there is no file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.known = [Measurement.from_json(line) for line in lines]

    def find(self, side: str, settings: Mapping[str, Any], conditions: Conditions, limit: float) -> Measurement | None:
        """The latest measurement of `side` with these settings on this hardware with these versions, or None.

        One for a higher target will do, and so will one in which a lower target was not reached.

        limit  one in which the target was not reached counts only if it was watched for so many seconds
        """
        target = settings["stop_at"]
        for each in reversed(self.known):
            other = each.settings["stop_at"]
            if other > target or (other < target and not each.reached):
                each = each.until(target)
            alike = each.side == side and _key(side, each.settings, each.conditions) == _key(side, settings, conditions)
            if alike and (each.reached or each.ended or each.seconds >= limit):
                return each
        return None

    def add(self, measurement: Measurement) -> None:
        """Keep the measurement and write it at once."""
        self.known.append(measurement)
        if self.path is not None:
            text = "".join(f"{each.to_json()}\n" for each in self.known)
            write_atomic(self.path, lambda temporary: temporary.write_text(text))


def _key(side: str, settings: Mapping[str, Any], conditions: Conditions) -> str:
    """A text that is equal for measurements that may stand for each other."""
    # the plain loop takes nothing but examples from icecore
    versions = {name: v for name, v in conditions.versions.items() if side == "ours" or name != "icecore"}
    return json.dumps([settings, conditions.hardware, versions], sort_keys=True)
