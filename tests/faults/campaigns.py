"""Runs the cases of `fuzz_cases.py`: `python campaigns.py KIND FIRST COUNT` by hand, and `campaign` in the tests.

A case must end in an answer or in a UserError, within ten seconds. Any other exception is a traceback for somebody.
Case k of a kind is the same in every call, so a campaign can be continued at any k. Prints JSON.
"""

import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import fuzz_cases

from icecore.core.errors import UserError

#: a case may take so many seconds
SECONDS = 10
#: data memory of the process, so that a case that asks for too much ends in a MemoryError and not in the machine's end
MEMORY = 4 * 2**30


class Hang(BaseException):
    """A case takes too long."""


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise Hang


def campaign(kind: str, first: int, count: int, folder: Path) -> dict[str, Any]:
    """The outcomes, failures, slowest case and peak memory of the cases `first` to `first + count`."""
    case = fuzz_cases.KINDS[kind](folder)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest, begun, before = 0.0, time.perf_counter(), peak_mebibytes()
    handler = signal.signal(signal.SIGALRM, _stop)
    for number in range(first, first + count):
        started = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings(action="ignore"):  # of libraries, about odd values
                case(random.Random(f"{kind} {number}"))
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            if len(str(error)) > 5000:
                failures.append(f"case {number}: a message of {len(str(error)):,} characters")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            place = traceback.extract_tb(error.__traceback__)[-1]
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if "icecore" in frame.filename]
            near = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
            failures.append(f"case {number}: {type(error).__name__}: {str(error)[:200]} at {near}, {place.name}")
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - started)
    signal.signal(signal.SIGALRM, handler)
    return {
        "kind": kind,
        "first": first,
        "cases": count,
        "outcomes": dict(outcomes),
        "failures": failures,
        "seconds": round(time.perf_counter() - begun, 1),
        "slowest": round(slowest, 2),
        "peak_mebibytes": peak_mebibytes(),
        "more_than_before": peak_mebibytes() - before,
    }


def peak_mebibytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(campaign(kind, first, count, Path(folder))))


if __name__ == "__main__":
    main()
