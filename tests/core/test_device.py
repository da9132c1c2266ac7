"""Devices and precisions are chosen explicitly; exhausted memory is answered with a remedy."""

import os
import re
from pathlib import Path

import pytest
import torch

from icecore.core import device as runtime
from icecore.core.errors import ConfigError, UserError

CPU = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: int = 0, mps: bool = False, bf16: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda device: bf16)


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda"),
        (2, False, "cuda:1", "cuda:1"),
        (2, True, "cpu", "cpu"),
    ],
)
def test_device(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, device: str, expected: str) -> None:
    pretend(monkeypatch, cuda, mps)
    assert str(runtime.select_runtime(device).device) == expected


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cdua", "unknown device 'cdua'; did you mean 'cuda'?"),
        ("mps", "--device mps: no such device here; available: cuda, cpu"),
        ("cuda:2", "--device cuda:2: no such device here; cuda has 2"),
        ("cuda:one", "--device cuda:one: no such device here"),
        ("cpu:1", "--device cpu:1: no such device here; cpu has"),
    ],
)
def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(ConfigError, match=message):
        runtime.select_runtime(device)


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, fast: bool, expected: str) -> None:
    pretend(monkeypatch, bf16=fast)
    assert runtime.select_runtime("cpu").precision == expected
    for asked in ("fp32", "bf16", "int8"):
        assert runtime.select_runtime("cpu", asked).precision == asked


@pytest.mark.parametrize(
    ("bf16", "int8", "expected"), [(True, True, "bf16"), (False, True, "int8"), (False, False, "fp32")]
)
def test_fast_takes_8_bits_where_bf16_is_not_there(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, int8: bool, expected: str
) -> None:
    pretend(monkeypatch, bf16=bf16)
    monkeypatch.setattr(runtime, "has_fast_int8", lambda device: int8)
    assert runtime.select_runtime("cpu", "fast").precision == expected


def test_int8_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=1)
    with pytest.raises(ConfigError, match="int8 is for x86 CPUs, found cuda"):
        runtime.select_runtime("cuda", "int8")


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match="unknown precision 'fp16'; did you mean 'bf16'"):
        runtime.select_runtime("cpu", "fp16")


def test_the_cpu_is_described_and_needs_no_waiting() -> None:
    here = runtime.Runtime(CPU, "fp32")
    here.synchronize()
    assert re.match(rf"CPU, {torch.get_num_threads()} threads?, ", here.describe())


def test_versions_name_what_numbers_depend_on() -> None:
    found = runtime.package_versions()
    assert found["torch"] == torch.__version__
    assert set(found) == {"icecore", "python", "torch", "transformers"}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_exhausted_memory_says_what_to_lower(error: Exception) -> None:
    advice = pytest.raises(UserError, match=r"out of memory on CPU.*64 rows.*lower --micro-batch \(now 64")
    with advice, runtime.Runtime(CPU, "fp32").memory_advice(64):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), runtime.Runtime(CPU, "fp32").memory_advice(64):
        raise RuntimeError("shapes do not match")


def test_memory_is_that_of_the_machine_or_of_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, expected in (("max\n", machine), ("4096\n", 4096), (f"{2 * machine}\n", machine)):
        monkeypatch.setattr(Path, "read_text", lambda path, limit=limit: limit)
        assert runtime.total_memory(CPU) == expected


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "4096")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert runtime.total_memory(CPU) == 1024
    monkeypatch.setenv(runtime.MEMORY_SHARE_VARIABLE, "0.5")
    assert runtime.total_memory(CPU) == 2048


@pytest.mark.parametrize("given", ["half", "0", "-1", "1.5", ""])
def test_a_share_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime.MEMORY_SHARE_VARIABLE, given)
    with pytest.raises(ConfigError, match=f"ICECORE_MEMORY_SHARE={given}: expected a share"):
        runtime.total_memory(CPU)


def test_sending_to_where_a_tensor_lies_copies_nothing() -> None:
    x = torch.ones(3)
    assert runtime.to_device(x, CPU) is x
