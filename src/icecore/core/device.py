"""Where and how to compute, as one explicit value: device and precision. There is no global state.

The device `auto` is CUDA if available, then Apple's MPS, then the CPU. The precision `auto` is bf16 if the hardware
multiplies it natively, else fp32.
"""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from icecore.core.errors import ConfigError, UserError, unknown_name
from icecore.core.spinning import watch_load
from icecore.core.text import pluralize
from icecore.core.version import __version__

#: environment variable: the share of a device's memory that this process may use if several processes share it
MEMORY_SHARE_VARIABLE = "ICECORE_MEMORY_SHARE"
DEVICES = ("auto", "cpu", "cuda", "mps")

#: texts of the errors that torch raises for exhausted memory as plain RuntimeErrors
_OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Runtime:
    """A device, and the precision of the products of frozen weights on it ("fp32", "bf16" or "int8")."""

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
        """Wait until the device has finished its work, so that measured times are right."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @contextlib.contextmanager
    def memory_advice(self, rows: int) -> Iterator[None]:
        """Raise an out-of-memory error as a UserError that says which settings to lower.

        rows  rows of each run that go through the body in one pass
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            if not out_of_memory and not any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS):
                raise
            raise UserError(
                f"out of memory on {self.describe()} with {rows} rows of each run in one pass. Lower --micro-batch "
                f"(now {rows}; results stay the same), give fewer values of --lr or --seeds at once, or lower "
                "--batch-size."
            ) from error


def select_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """The runtime for the device and precision that a user names.

    "auto" is bf16 if the hardware multiplies it, else fp32. "fast" is int8 on CPUs that have instructions for it but no
    AMX, and otherwise the same as "auto". Raises ConfigError for a device that does not exist here, and for a
    precision that it lacks.
    """
    selected = _select_device(device)
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(selected) else "fp32"
    elif precision == "fast":
        precision = _fastest_precision(selected)
    if precision not in ("fp32", "bf16", "int8"):
        raise unknown_name("precision", precision, ("auto", "fast", "fp32", "bf16", "int8"))
    if precision == "int8":
        check_int8(selected)
    if selected.type == "cpu":
        watch_load()
    return Runtime(selected, precision)


def _fastest_precision(device: torch.device) -> str:
    """The precision whose products are the fastest on `device`."""
    if has_fast_int8(device) and not has_amx():
        return "int8"
    return "bf16" if has_fast_bf16(device) else "fp32"


def _select_device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    availability = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [device for device, is_available in availability.items() if is_available]
    if kind == "auto":
        kind = available[0]
    if kind not in available:
        raise ConfigError(f"--device {name}: this machine has no such device. Available: {', '.join(available)}.")
    if not index:
        return torch.device(kind)
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind != "cuda" or not index.isdigit() or int(index) >= count:
        raise ConfigError(
            f"--device {name}: this machine has no such device. It has {pluralize(count, f'{kind} device')}; "
            f"write --device {kind}" + (f":0 to {kind}:{count - 1}." if kind == "cuda" else ".")
        )
    return torch.device(kind, int(index))


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`, without waiting for the work that is under way there."""
    if device.type == "cuda" and x.device.type == "cpu":
        # A copy from pageable memory would wait.
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def total_memory(device: torch.device) -> int:
    """Bytes of memory of `device` that this process may plan with, whether in use or not.

    In a container with a limit this is at most the limit. If other processes compute on the same machine, it is the
    share that the environment variable ICECORE_MEMORY_SHARE gives, else an equal part for each of torchrun's processes.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _memory_share())
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() * _memory_share())
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # there is no container, or it has no limit ("max")
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(total * _memory_share(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _memory_share(processes: int = 1) -> float:
    """The share of memory that the environment variable gives this process, else one part of `processes`."""
    text = os.environ.get(MEMORY_SHARE_VARIABLE)
    if text is None:
        return 1 / processes
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(
            f"{MEMORY_SHARE_VARIABLE}={text}: expected a share of the memory, greater than 0 and at most 1"
        )
    return share


def package_versions() -> dict[str, str]:
    """The versions of the packages that results depend on."""
    versions = {"icecore": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return versions | {"transformers": importlib.metadata.version("transformers")}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 matrices in hardware, faster than fp32.

    GPUs since Ampere do, and CPUs with AMX, with the BF16 instructions of Arm, or with AVX512_BF16 if AMD made them:
    bf16 is twice as fast as fp32 on Zen 4, but half as fast on a Xeon with AVX512_BF16 and without AMX. bf16 gives
    right results on other devices as well, but slowly. The kind of the CPU decides, not a measurement, because the
    precision is part of a run's id: a noisy measurement would start an interrupted run again.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return has_amx() or _has_instructions("bf16") or (_has_instructions("avx512_bf16") and _is_amd_cpu())


def activation_dtype(precision: str) -> torch.dtype:
    """Type of the numbers between the products of frozen weights.

    With 8 bits it is bf16 where that is fast: attention then has fast products, and everything else moves half of the
    memory. The rounding to 8 bits is coarser than that to bf16.
    """
    fast = precision == "int8" and has_fast_bf16(torch.device("cpu"))
    return torch.bfloat16 if precision == "bf16" or fast else torch.float32


@cache
def _is_amd_cpu() -> bool:
    """Whether AMD made this machine's CPU."""
    described = [platform.processor()]  # names the maker on Windows
    with contextlib.suppress(OSError):
        described.append(Path("/proc/cpuinfo").read_text())
    return any("AuthenticAMD" in text for text in described)


def has_amx() -> bool:
    """Whether this machine's CPU has AMX, which multiplies bf16 matrices faster than VNNI multiplies 8-bit integers."""
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return check is not None and bool(check())


def _has_instructions(name: str) -> bool:
    """Whether the CPU has an instruction set, by the name that torch gives it; False if torch does not tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(name, False))


def has_fast_int8(device: torch.device) -> bool:
    """Whether `device` is a CPU that multiplies 8-bit integers in hardware, faster than fp32 (VNNI)."""
    check = getattr(torch.cpu, "_is_vnni_supported", None)
    return device.type == "cpu" and check is not None and bool(check()) and has_exact_int8()


def check_int8(device: torch.device) -> None:
    """Raise ConfigError if products of 8-bit integers do not exist on `device` or give wrong numbers."""
    if device.type != "cpu" or not _has_int8_products():
        raise ConfigError(
            f"precision int8 runs on x86 CPUs only, and the device is {device}. Use --precision bf16 or fp32."
        )
    if not has_exact_int8():
        raise ConfigError(
            "precision int8 gives wrong numbers on this CPU: it has no VNNI instructions, so sums of 8-bit products "
            "overflow. Use --precision fp32."
        )


def _has_int8_products() -> bool:
    return hasattr(torch.ops.onednn, "qlinear_pointwise")


@cache
def has_exact_int8() -> bool:
    """Whether this machine's CPU multiplies 8-bit integers without overflow.

    Without VNNI, oneDNN adds pairs of products in 16 bits, which saturate: results are 10 to 20 % off. A product is
    measured, because torch knows one of the two VNNI instruction sets only (AVX-512, not AVX).
    """
    if not _has_int8_products():
        return False
    rows, columns, depth = 16, 32, 256
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (rows, depth), dtype=torch.uint8, generator=generator)
    weight = torch.randint(-127, 128, (columns, depth), dtype=torch.int8, generator=generator)
    exact = ((x.long() - 128) @ weight.long().T).float()
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    ones, zeros = torch.ones(columns), torch.zeros(columns, dtype=torch.long)
    product = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 128, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return bool((product - exact).norm() < 1e-3 * exact.norm())
