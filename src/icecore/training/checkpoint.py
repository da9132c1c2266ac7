"""The files of a run, and training states from which it resumes exactly.

A run folder holds config.json, events.jsonl, checkpoint/, program.safetensors, summary.json. The runs
of a pack checkpoint one after another; a state counts once all of them have it, so a kill between two
writes loses nothing but steps.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, StorageError
from icecore.core.limits import read_small, small_lines
from icecore.core.storage import file_lock, storage_errors, write_json, write_tensors
from icecore.core.text import printable_values
from icecore.training.run_summary import RunSummary

CONFIG, EVENTS, PROGRAM, SUMMARY = "config.json", "events.jsonl", "program.safetensors", "summary.json"
LOCK = ".lock"
STATE = re.compile(r"step_(\d+)\.safetensors")


class RunFolder:
    """One run's folder: `parent / run_id`, unless a finished run is read from a folder that was given another name."""

    def __init__(self, parent: Path, config: RunConfig) -> None:
        self.config = config
        self.path = parent / config.run_id

    @classmethod
    def at(cls, path: Path, config: RunConfig) -> "RunFolder":
        """The folder of a run under whatever name it has."""
        folder = cls(path.parent, config)
        folder.path = path
        return folder

    @property
    def states(self) -> Path:
        """The folder of the states that a training continues from."""
        return self.path / "checkpoint"

    @property
    def summary_path(self) -> Path:
        """The file that exists once the run is finished."""
        return self.path / SUMMARY

    @property
    def events_path(self) -> Path:
        """The run's log."""
        return self.path / EVENTS

    @property
    def program_path(self) -> Path:
        """The trained program."""
        return self.path / PROGRAM

    def open(self) -> None:
        """Create the folder, or check that it belongs to this configuration. Raises ConfigError, StorageError."""
        if not (self.path / CONFIG).exists():
            write_json(self.path / CONFIG, json.loads(self.config.to_json()))
        elif changed := differences(read_config(self.path), self.config):
            raise ConfigError(
                f"The folder {self.path} belongs to another configuration ({changed}). "
                "Choose another --out, or move the folder away."
            )

    def lock(self, wait: bool = True) -> AbstractContextManager[bool]:
        """Keep other processes from training this run meanwhile; see `storage.file_lock`."""
        return file_lock(self.path / LOCK, wait)

    def clean_up(self) -> None:
        """Remove what a killed process left behind. Only the holder of the lock may call this."""
        with storage_errors(self.path):
            for leftover in self.path.rglob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            if self.events_path.exists():
                with self.events_path.open("a+b") as file:
                    # the next line must not be appended to an incomplete one
                    if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                        file.write(b"\n")

    def summary(self) -> RunSummary | None:
        """The finished run's summary, or None. Raises ConfigError if the file is damaged."""
        if not self.summary_path.exists():
            return None
        try:
            values = printable_values(json.loads(read_small(self.summary_path)))
            if not isinstance(values, dict):
                raise ConfigError("it is not a table of names and values")
            return RunSummary.from_json(values)
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            raise ConfigError(
                f"The file {self.summary_path} is damaged ({error}). Delete it and train again."
            ) from error

    def log(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Append events, one JSON line each, in a single write."""
        with storage_errors(self.events_path), self.events_path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(event) + "\n" for event in events))

    def events(self) -> list[dict[str, Any]]:
        """The logged events, without lines that are incomplete or damaged and steps that a resumed run repeated.

        Raises ConfigError if the file cannot be read.
        """
        events: list[dict[str, Any]] = []
        if not self.events_path.exists():
            return events
        try:
            with self.events_path.open("rb") as file:
                for line in small_lines(file):
                    event = None if line is None else _read_event(line.decode("utf-8", errors="replace"))
                    if event is None:
                        continue
                    if event.get("event") == "start":
                        events = [e for e in events if e["step"] <= event["step"]]
                    events.append(event)
        except OSError as error:
            raise ConfigError(f"{self.events_path}: {error.strerror}. Check its permissions.") from error
        return events

    def pack(self) -> list[str]:
        """Ids of the runs in the pack that this run was last trained in; empty if it has not started."""
        starts = [event.get("pack", []) for event in self.events() if event["event"] == "start"]
        return starts[-1] if starts else []

    def race(self) -> Sequence[str]:
        """Ids of the runs in the race in which this run fell behind; empty if it did not.

        Raises ConfigError or StorageError if its summary or its last state is damaged.
        """
        summary = self.summary()
        if summary is not None:
            return summary.race
        steps = self.saved_steps()
        return self.load_values(steps[-1]).get("race", ()) if steps else ()

    def largest_pack(self) -> int:
        """How many runs the largest pack had that this run was trained in; 0 if it has not started.

        A run that is continued alone, because a kill came between the summaries of its pack, was still trained in it.
        """
        return max((len(event.get("pack", [])) for event in self.events() if event["event"] == "start"), default=0)

    def check_origin(self, origin: Mapping[str, str]) -> None:
        """Raise ConfigError unless the run was started with the body and the data that `origin` names."""
        begun = [event["origin"] for event in self.events() if "origin" in event]
        changed = [name for name, value in (begun[-1] if begun else {}).items() if origin.get(name) != value]
        if changed:
            raise ConfigError(
                f"The run in {self.path} was started with another {' and other '.join(changed)}. Choose another --out, "
                "or start over with --no-resume."
            )

    def saved_steps(self) -> list[int]:
        """Steps of the states on disk, ascending."""
        return sorted(int(match[1]) for path in self.states.glob("*") if (match := STATE.fullmatch(path.name)))

    def save_state(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Write the training state after `step` steps."""
        write_tensors(self._state(step), tensors, {"state": json.dumps(values)})

    def load_state(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state that `save_state` wrote. Raises StorageError if it is damaged."""
        with self._opened_state(step) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            return tensors, _counters(file)

    def load_values(self, step: int) -> dict[str, Any]:
        """The values of a state, without its tensors. Raises StorageError if it is damaged."""
        with self._opened_state(step) as file:
            return _counters(file)

    @contextmanager
    def _opened_state(self, step: int) -> Iterator[Any]:
        path = self._state(step)
        try:
            with safe_open(path, "pt") as file:
                yield file
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise StorageError(
                f"The state {path} is damaged ({error}). Delete it to continue from an earlier state or from the start."
            ) from error

    def go_back(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The last state up to `step`. Later states, which the pack does not share, are deleted."""
        last = max(s for s in self.saved_steps() if s <= step)
        self.drop_states(keep=last)
        return self.load_state(last)

    def drop_states(self, keep: int | None = None) -> None:
        """Delete every state but that of step `keep`."""
        with storage_errors(self.states):
            for step in self.saved_steps():
                if step != keep:
                    self._state(step).unlink(missing_ok=True)

    def reset(self) -> None:
        """Delete everything except the configuration, to start over."""
        with storage_errors(self.path):
            self.summary_path.unlink(missing_ok=True)  # first, because it says that everything else is complete
        self.drop_states()
        with storage_errors(self.path):
            for name in (EVENTS, PROGRAM):
                (self.path / name).unlink(missing_ok=True)

    def _state(self, step: int) -> Path:
        return self.states / f"step_{step:09d}.safetensors"


def _counters(state: Any) -> dict[str, Any]:
    """The counters in an open state file. Raises what the caller turns into a StorageError."""
    values = json.loads(state.metadata()["state"])
    if not isinstance(values, dict) or "stopped" not in values:
        raise ValueError("its counters are missing")
    return values


class SecondaryRunFolder(RunFolder):
    """A run's folder for the other processes of a torchrun: empty, since only the first one reads and writes."""

    def open(self) -> None: ...

    def lock(self, wait: bool = True) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def clean_up(self) -> None: ...

    def summary(self) -> None: ...

    def log(self, events: Sequence[Mapping[str, Any]]) -> None: ...

    def events(self) -> list[dict[str, Any]]:
        return []

    def race(self) -> Sequence[str]:
        return ()

    def saved_steps(self) -> list[int]:
        return []

    def save_state(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None: ...

    def drop_states(self, keep: int | None = None) -> None: ...

    def reset(self) -> None: ...


def validation_curve(events: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Step and metric of each validation in the events of a run, without metrics that were not finite."""
    scored = ((e["step"], e.get("metric")) for e in events if e["event"] == "validation")
    return [(step, metric) for step, metric in scored if metric is not None]


def _read_event(line: str) -> dict[str, Any] | None:
    """The event in a line of a log; None if the line is incomplete, or says something that no event does."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or type(event.get("step")) is not int:
        return None
    number = {"validation": "metric", "train": "loss"}.get(event["event"])
    # null stands for a number that was not finite
    if number in event and not isinstance(event[number], int | float | None):
        return None
    pack, origin = event.get("pack", []), event.get("origin", {})
    is_plain = isinstance(origin, dict) and isinstance(pack, list) and all(isinstance(name, str) for name in pack)
    return event if is_plain else None


def common_step(folders: Sequence[RunFolder], ends: Sequence[int | None]) -> int | None:
    """The latest step at which every run has a state or had stopped already (at its step in `ends`), or None."""
    saved = [set(folder.saved_steps()) for folder in folders]
    for step in sorted(set.union(*saved), reverse=True):
        if all(step in steps or (end is not None and end < step) for steps, end in zip(saved, ends, strict=True)):
            return step
    return None


def read_config(folder: Path) -> RunConfig:
    """The configuration in a run folder. Raises ConfigError that names the file if it is not one."""
    path = folder / CONFIG
    try:
        return RunConfig.from_json(read_small(path))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise ConfigError(f"{path}: {error} Move the folder away and train again.") from error


def differences(stored: RunConfig, requested: RunConfig) -> str:
    """The settings in which two configurations differ, in words."""
    left, right = json.loads(stored.to_json()), json.loads(requested.to_json())
    names = {**left, **right}  # a setting that is not in use is in neither
    values = {name: (left.get(name), right.get(name)) for name in names}
    return ", ".join(f"{name} {one!r} there, {other!r} here" for name, (one, other) in values.items() if one != other)
