"""Where and how to compute, as one explicit value: device, precision, threads. No global state.

`auto` takes CUDA, then Apple's MPS, then the CPU; bf16 only where the hardware multiplies it natively.
"""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from icecore import __version__
from icecore.core.errors import ConfigError, UserError, unknown_name
from icecore.core.text import pluralize

#: variable of the environment: the share of a device's memory that a process plans with where several run on it
MEMORY_SHARE_VARIABLE = "ICECORE_MEMORY_SHARE"
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Runtime:
    """A device and the precision of the frozen products there ("fp32", "bf16" or "int8")."""

    device: torch.device
    precision: str

    def describe(self) -> str:
        """The device in words, for summaries and the progress display."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        if self.device.type == "mps":
            return f"Apple {platform.machine()} (MPS)"
        threads = pluralize(torch.get_num_threads(), "thread")
        return f"CPU, {threads}, {torch.backends.cpu.get_cpu_capability()}"

    def synchronize(self) -> None:
        """Wait for the device, so that clocks tell the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @contextlib.contextmanager
    def memory_advice(self, rows: int) -> Iterator[None]:
        """Answer exhausted memory with what to lower; `rows` of each run go through the body at once."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            if not full and not any(sign in str(error) for sign in ("can't allocate memory", "not enough memory")):
                raise
            raise UserError(
                f"out of memory on {self.describe()} with {rows} rows a run and pass: lower --micro-batch (now {rows}; "
                "results stay the same), give fewer --lr or --seeds at once, or lower --batch-size"
            ) from error


def select_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """The runtime for the names given on the command line. Raises ConfigError for what is not there.

    "auto" is bf16 where the hardware has it, else fp32; "fast" is int8 in its place where a CPU has that.
    """
    kind, _, index = device.partition(":")
    if kind not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        kind = next(name for name, there in available.items() if there or name == "cpu")
    if not available[kind]:
        there = [name for name, found in available.items() if found]
        raise ConfigError(f"--device {device}: no such device here; available: {', '.join(there)}")
    if index and not (index.isdigit() and kind == "cuda" and int(index) < torch.cuda.device_count()):
        raise ConfigError(f"--device {device}: no such device here; {kind} has {max(1, torch.cuda.device_count())}")
    chosen = torch.device(kind, int(index)) if index else torch.device(kind)
    if precision in ("auto", "fast"):
        wide = "int8" if precision == "fast" and has_fast_int8(chosen) else "fp32"
        precision = "bf16" if has_fast_bf16(chosen) else wide
    if precision not in ("fp32", "bf16", "int8"):
        raise unknown_name("precision", precision, ("auto", "fast", "fp32", "bf16", "int8"))
    if precision == "int8" and (kind != "cpu" or not hasattr(torch.ops.onednn, "qlinear_pointwise")):
        raise ConfigError(f"--precision int8 is for x86 CPUs, found {chosen}; take bf16 or fp32")
    return Runtime(chosen, precision)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`, without waiting for the work under way there."""
    if device.type == "cuda" and x.device.type == "cpu":
        # a copy from memory that may be paged out would wait
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def total_memory(device: torch.device) -> int:
    """Bytes of memory of `device` that this process may plan with, in use or not.

    Of a container where it is allowed less than the machine; this process's share of it where others compute
    beside it: MEMORY_SHARE of the environment, else one of the processes that torchrun started on this machine.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _share())
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() * _share())
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(total * _share(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _share(processes: int = 1) -> float:
    """The share of memory that the environment gives this process, else one of so many processes."""
    given = os.environ.get(MEMORY_SHARE_VARIABLE)
    if given is None:
        return 1 / processes
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"{MEMORY_SHARE_VARIABLE}={given}: expected a share of the memory, more than 0 and at most 1")
    return share


def package_versions() -> dict[str, str]:
    """Versions that numbers depend on."""
    found = {"icecore": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return found | {"transformers": importlib.metadata.version("transformers")}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 matrices in hardware, faster than fp32 (AMX on CPU, Ampere on)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        check = getattr(torch.cpu, "_is_amx_tile_supported", None)
        return bool(check()) if check is not None else False
    return False


def has_fast_int8(device: torch.device) -> bool:
    """Whether `device` is a CPU that multiplies 8-bit integers in hardware, faster than fp32 (VNNI)."""
    check = getattr(torch.cpu, "_is_vnni_supported", None)
    return device.type == "cpu" and hasattr(torch.ops.onednn, "qlinear_pointwise") and bool(check and check())
