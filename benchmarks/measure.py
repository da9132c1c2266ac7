"""Fair timing: sides take turns in one process, warm-up is separate, medians count, and results must agree.

Every script ends with one JSON line. `--write` stores it in benchmarks/results, with the table, the hardware, the
versions and the command.
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
#: shortest duration of a sample in seconds; shorter calls are repeated within it
SAMPLE = 0.2
#: features of a CPU that decide how fast it multiplies
CPU_FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")


@dataclass(frozen=True)
class Side:
    """The measurements of one side.

    warmup   seconds of its first call, which is not part of the median
    seconds  median seconds of a call
    samples  number of samples of the median
    results  (k, ...) fp64 on the CPU: the results of its first k calls
    """

    warmup: float
    seconds: float
    samples: int
    results: Tensor


def in_turn(
    sides: Mapping[str, Callable[[], Tensor]], runtime: Runtime, seconds: float, checked: int = CHECKED
) -> dict[str, Side]:
    """Time calls of the sides in the order A B A B ... for about `seconds`, with at least `checked` calls of each."""
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
    """Seconds of one call, as the mean over `repeats` calls, and the last result."""
    runtime.synchronize()
    start = time.perf_counter()
    for _ in range(repeats - 1):
        call()
    result = call()
    runtime.synchronize()
    return (time.perf_counter() - start) / repeats, result


def agree(what: str, ours: Tensor, plain: Tensor, precision: str) -> float:
    """The largest difference divided by the mean magnitude of `plain`. Raises SystemExit if it exceeds TOLERANCE."""
    ours, plain = ours.double().cpu(), plain.double().cpu()
    difference = float((ours - plain).abs().max() / plain.abs().mean())
    if not difference <= TOLERANCE[precision]:  # also if it is nan
        raise SystemExit(
            f"There is no ratio, because the sides do not compute the same thing. {what}: relative difference "
            f"{difference:.2g}, tolerance {TOLERANCE[precision]:.0e} in {precision}; "
            f"ours {ours.flatten()[:5].tolist()}, plain {plain.flatten()[:5].tolist()}"
        )
    return difference


def matmul_rate(dtype: torch.dtype, rows: int, width: int, runtime: Runtime) -> float:
    """Best FLOP/s that the machine reaches in the products of a transformer block on inputs (rows, width)."""
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    operands = [
        [torch.randn(*size, device=runtime.device).to(dtype) for size in ((rows, inner), (outer, inner))]
        for inner, outer in shapes
    ]

    def block() -> Tensor:
        return [F.linear(x, weight) for x, weight in operands][-1]

    once, _ = min(clock(block, runtime) for _ in range(2))
    repeats = max(1, math.ceil(SAMPLE / once))
    best = min(clock(block, runtime, repeats)[0] for _ in range(3))
    return sum(2.0 * rows * inner * outer for inner, outer in shapes) / best


def peak_memory(runtime: Runtime) -> int:
    """Peak bytes so far: of tensors on CUDA, otherwise of this process."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    status = Path("/proc/self/status")
    if status.exists():  # the resource module would include the parent process
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def options(about: str | None, seconds: float | None) -> argparse.ArgumentParser:
    """The options that all scripts share; `seconds` is the default of --seconds, None if there is no such option."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", default="fast", help="precision of icecore: fast, auto, fp32, bf16 or int8")
    if seconds is None:
        parser.set_defaults(seconds=0.0)
    else:
        parser.add_argument(
            "--seconds", type=float, default=seconds, help="approximate duration of the measurement (%(default)s)"
        )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, only to test the script")
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results")
    return parser


class Bench:
    """One benchmark: its device and duration, and the report of its numbers."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        if arguments.quick and arguments.write:
            raise SystemExit("--quick uses tiny sizes, so its results are not stored. Use it without --write.")
        self.name = name
        self.quick: bool = arguments.quick
        self.seconds: float = 0.0 if arguments.quick else arguments.seconds
        self.write: bool = arguments.write
        self.runtime = runtimes.select_runtime(arguments.device, arguments.precision)
        #: of icecore; "each" if a script compares several
        self.precision = self.runtime.precision
        #: which part of the script was run, for the name of the result file; "" for the usual one
        self.part = ""

    @property
    def on_gpu(self) -> bool:
        """Whether the sizes for a large accelerator apply."""
        return self.runtime.device.type == "cuda" and not self.quick

    def path(self, suffix: str) -> Path:
        """The result file benchmarks/results/<name>_<part>_<hardware>-<precision>_<date><suffix>."""
        about = hardware(self.runtime)
        parts = [about["gpu"]] if "gpu" in about else [about["cpu"], *about["flags"][:1], f"{about['threads']} threads"]
        slug = re.sub(r"[^a-z0-9.]+", "-", " ".join(parts).lower().replace("(r)", "")).strip("-")
        name = f"{self.name}_{self.part}" if self.part else self.name
        return RESULTS / f"{name}_{slug}-{self.precision}_{date.today().isoformat()}{suffix}"

    def report(
        self, numbers: Mapping[str, Any], heads: Sequence[str], rows: Sequence[Sequence[object]], setting: str
    ) -> None:
        """Print the table and then the JSON line; with --write, store both.

        numbers  content of the line besides the configuration; floats are rounded to four digits
        setting  what was compared, in words
        """
        table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (heads, ["---"] * len(heads), *rows))
        configuration: dict[str, Any] = {"precision": self.precision, "quick": self.quick}
        if self.seconds:
            configuration["time_box"] = self.seconds
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
    """The hardware that timings depend on: CPU model, cores, threads, instruction sets, and the GPU if one is used."""
    listing = Path("/proc/cpuinfo")
    text = listing.read_text() if listing.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    cpu_flags = set(flags[1].split()) if flags else set()
    about: dict[str, Any] = {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in CPU_FLAGS if flag in cpu_flags],
    }
    if runtime.device.type != "cpu":
        about["gpu"] = runtime.describe()
    return about


def _rounded(value: Any) -> Any:
    """`value` with all its floats rounded to four significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
