"""Start a process that trains and measure the time until its validation reaches a target accuracy.

Both sides of time_to_accuracy.py append lines with "step" and "metric" to an events.jsonl, which is read from outside
in the same way.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

#: seconds between two looks at the events; less would take time from the process that is measured
LOOK = 0.05


class Validation(NamedTuple):
    """A validation: seconds since the start of the process, step, and metric."""

    seconds: float
    step: int
    metric: float


@dataclass(frozen=True)
class Watched:
    """A process that was watched.

    seconds      until the target was reached, or until watching ended without it
    step         of the validation that reached the target; None if none did
    ended        whether the process ended by itself without reaching it
    validations  all validations that were seen
    """

    seconds: float
    step: int | None
    ended: bool
    validations: tuple[Validation, ...]


def watch(command: Sequence[str], out: Path, target: float, limit: float) -> Watched:
    """Run `command` until the events that it writes below `out` contain a metric of at least `target`.

    The process is stopped then, and after `limit` seconds. Raises SystemExit with its last words if it fails.
    """
    start, events, validations = time.perf_counter(), Events(out), []
    with (out / "errors").open("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            while True:
                ended = process.poll() is not None  # asked first, so that no event comes after the last look
                new = [event for event in events.new() if "metric" in event]
                seconds = time.perf_counter() - start
                validations += [Validation(seconds, event["step"], event["metric"]) for event in new]
                step = next((each.step for each in validations if each.metric >= target), None)
                if step is not None or ended or seconds >= limit:
                    break
                time.sleep(LOOK)
        finally:
            process.terminate()
            process.wait()
        if step is None and ended and process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{errors.read().strip()[-2000:]}")
    return Watched(seconds, step, ended and step is None, tuple(validations))


class Events:
    """The file events.jsonl that appears somewhere below a folder, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path: Path | None = None
        self.offset = 0

    def new(self) -> list[dict[str, Any]]:
        """The events of the complete lines since the last call."""
        self.path = self.path or next(self.folder.rglob("events.jsonl"), None)
        if self.path is None:
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            lines = file.read().rpartition(b"\n")[0]
        if lines:
            self.offset += len(lines) + 1
        return [json.loads(line) for line in lines.splitlines() if line]
