"""Start a process that trains and measure the time until its validation reaches a target accuracy.

Both sides of time_to_accuracy.py append {"step", "loss"} and {"step", "metric"} lines to an events.jsonl, which is
read from outside in the same way.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from measure import CHECKED

#: seconds between two looks at the events
LOOK = 0.02


@dataclass(frozen=True)
class Reached:
    """Seconds and step at which the validation reached the target, None if it never did; and the first losses."""

    seconds: float | None
    step: int | None
    losses: torch.Tensor


def watch(command: Sequence[str], out: Path, stop_at: float) -> Reached:
    """Run `command` until the events that it writes below `out` contain a validation of at least `stop_at`."""
    start = time.perf_counter()
    with (out / "errors").open("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while True:
            ended = process.poll() is not None
            so_far = read_events(out)
            seconds = time.perf_counter() - start
            step = next((e["step"] for e in so_far if e.get("metric", -1.0) >= stop_at), None)
            if step is not None or ended:
                break
            time.sleep(LOOK)
        if step is None and process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{errors.read().strip()[-2000:]}")
        process.terminate()
        process.wait()
    losses = torch.tensor([e["loss"] for e in so_far if "loss" in e][:CHECKED])
    return Reached(None if step is None else seconds, step, losses)


def read_events(out: Path) -> list[dict[str, Any]]:
    """The complete lines of every events.jsonl below `out`."""
    lines = [line for path in out.rglob("events.jsonl") for line in path.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]
