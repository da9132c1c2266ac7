"""Measuring sides honestly: in turn within one process, warm-up apart, medians, and no ratio without agreement.

Every script ends in one JSON line; `--write` keeps it with table, hardware, versions and command in
benchmarks/results.
"""

import argparse
import json
import math
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core import device as runtimes
from icecore.core.device import Runtime

Result = TypeVar("Result")

RESULTS = Path(__file__).parent / "results"
#: largest relative difference of the losses, by precision of icecore's side (the plain loop is fp32)
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "int8": 5e-2}
#: calls of each side whose results are compared
CHECKED = 5
#: seconds that one sample lasts at least: shorter calls are repeated within it
SAMPLE = 0.2
#: features of a CPU that decide how fast it multiplies
CPU_FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")


@dataclass(frozen=True)
class Side:
    """What one side gave.

    warmup   seconds of its first call, which counts nowhere else
    seconds  median seconds of a call
    samples  how many times the median is over
    results  (k, ...) fp64 on the CPU: what its first k calls returned
    """

    warmup: float
    seconds: float
    samples: int
    results: Tensor


def in_turn(
    sides: Mapping[str, Callable[[], Tensor]], runtime: Runtime, seconds: float, checked: int = CHECKED
) -> dict[str, Side]:
    """Time calls of the sides A B A B ... for about `seconds`, and at least `checked` calls of each."""
    begun = time.perf_counter()
    samples: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, list[Tensor]] = {name: [] for name in sides}
    for _ in range(checked):
        for name, call in sides.items():
            taken, result = clock(call, runtime)
            samples[name].append(taken)
            results[name].append(result.detach().cpu().double())
    warmups = {name: taken.pop(0) for name, taken in samples.items()}
    repeats = {name: math.ceil(SAMPLE / statistics.median(taken)) for name, taken in samples.items()}
    for name, count in repeats.items():
        if count > 1:
            samples[name].clear()
    while time.perf_counter() - begun < seconds or not all(samples.values()):
        for name, call in sides.items():
            samples[name].append(clock(call, runtime, repeats[name])[0])
    return {
        name: Side(warmups[name], statistics.median(samples[name]), len(samples[name]), torch.stack(results[name]))
        for name in sides
    }


def clock(call: Callable[[], Result], runtime: Runtime, repeats: int = 1) -> tuple[float, Result]:
    """Seconds of one call, the mean of `repeats`, and the last result."""
    runtime.synchronize()
    start = time.perf_counter()
    for _ in range(repeats - 1):
        call()
    result = call()
    runtime.synchronize()
    return (time.perf_counter() - start) / repeats, result


def agree(what: str, ours: Tensor, plain: Tensor, precision: str) -> float:
    """The largest difference over the mean size of `plain`. Ends the program where it is beyond TOLERANCE."""
    ours, plain = ours.double().cpu(), plain.double().cpu()
    found = float((ours - plain).abs().max() / plain.abs().mean())
    if not found <= TOLERANCE[precision]:  # also where it is not a number
        raise SystemExit(
            f"no ratio: the sides do not compute the same thing. {what}: relative difference {found:.2g}, tolerance "
            f"{TOLERANCE[precision]:.0e} in {precision}; ours {ours.flatten()[:5].tolist()}, "
            f"plain {plain.flatten()[:5].tolist()}"
        )
    return found


def matmul_rate(dtype: torch.dtype, rows: int, width: int, runtime: Runtime) -> float:
    """FLOP/s that the machine reaches in a transformer block's own products, `rows` x `width` in: the best of many."""
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    held = [
        [torch.randn(*size, device=runtime.device).to(dtype) for size in ((rows, inner), (outer, inner))]
        for inner, outer in shapes
    ]

    def block() -> Tensor:
        return [F.linear(x, weight) for x, weight in held][-1]

    once, _ = min(clock(block, runtime) for _ in range(2))
    repeats = max(1, math.ceil(SAMPLE / once))
    best = min(clock(block, runtime, repeats)[0] for _ in range(3))
    return sum(2.0 * rows * inner * outer for inner, outer in shapes) / best


def peak_memory(runtime: Runtime) -> int:
    """Most bytes held so far: on CUDA by tensors, else by this process."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    status = Path("/proc/self/status")
    if status.exists():  # the resource module's number would include the process this one was started from
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def options(about: str | None, seconds: float) -> argparse.ArgumentParser:
    """The command line all scripts share; `seconds` is the default of --seconds."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", default="fast", help="of icecore's side: fast, auto, fp32, bf16 or int8")
    parser.add_argument("--seconds", type=float, default=seconds, help="about how long to measure (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does the script work?")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    return parser


class Bench:
    """One script under way: where it computes, how long, and what becomes of its numbers."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        if given.quick and given.write:
            raise SystemExit("--quick measures nothing worth keeping: give it without --write")
        self.name = name
        self.quick: bool = given.quick
        self.seconds: float = 0.0 if given.quick else given.seconds
        self.write: bool = given.write
        self.runtime = runtimes.select_runtime(given.device, given.precision)
        #: of icecore's side; "each" where a script compares several
        self.precision = self.runtime.precision

    @property
    def on_gpu(self) -> bool:
        """Whether the sizes for a large accelerator apply."""
        return self.runtime.device.type == "cuda" and not self.quick

    def path(self, suffix: str) -> Path:
        """The result file benchmarks/results/<name>_<hardware>-<precision>_<date><suffix>."""
        about = hardware(self.runtime)
        parts = [about["gpu"]] if "gpu" in about else [about["cpu"], *about["flags"][:1], f"{about['threads']} threads"]
        slug = re.sub(r"[^a-z0-9.]+", "-", " ".join(parts).lower().replace("(r)", "")).strip("-")
        return RESULTS / f"{self.name}_{slug}-{self.precision}_{date.today().isoformat()}{suffix}"

    def report(
        self, numbers: Mapping[str, Any], heads: Sequence[str], rows: Sequence[Sequence[object]], setting: str
    ) -> None:
        """Print table and, last, the JSON line; with --write keep both.

        numbers  content of the line besides configuration; floats are rounded to four digits
        setting  what was compared, in words
        """
        table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (heads, ["---"] * len(heads), *rows))
        configuration = {"precision": self.precision, "time_box": self.seconds, "quick": self.quick}
        about = {
            "hardware": hardware(self.runtime),
            "versions": runtimes.package_versions(),
            "date": date.today().isoformat(),
        }
        line = {"benchmark": self.name, **_rounded(numbers), **configuration, **about}
        print(f"{setting}\n\n{table}\n\n{json.dumps(line)}")
        if self.write:
            command = shlex.join(["python", f"benchmarks/{self.name}.py", *sys.argv[1:]])
            machine = ", ".join(f"{key} {value}" for key, value in about["hardware"].items())
            versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
            RESULTS.mkdir(exist_ok=True)
            self.path(".md").write_text(
                f"# {self.name}, {about['date']}\n\n{setting}\n\n{table}\n\n"
                f"- Precision: {self.precision}; the plain loop's: fp32\n"
                f"- Hardware: {machine}\n- Versions: {versions}\n- Command: `{command}`\n\n"
                f"```json\n{json.dumps(line, indent=2)}\n```\n"
            )


def hardware(runtime: Runtime) -> dict[str, Any]:
    """What timings depend on: CPU model, cores, threads, its features for products, the GPU if one is used."""
    listing = Path("/proc/cpuinfo")
    text = listing.read_text() if listing.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    held = set(flags[1].split()) if flags else set()
    found: dict[str, Any] = {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in CPU_FLAGS if flag in held],
    }
    if runtime.device.type != "cpu":
        found["gpu"] = runtime.describe()
    return found


def _rounded(value: Any) -> Any:
    """`value` with every float in it rounded to four significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(held) for held in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
