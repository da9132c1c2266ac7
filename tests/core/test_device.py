"""The choice of device and precision, and the advice when memory is exhausted."""

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
    monkeypatch.setattr(runtime, "has_exact_int8", lambda: True)


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
        ("cdua", "Unknown device 'cdua'. Did you mean 'cuda' or 'cpu'?"),
        ("mps", "--device mps: this machine has no such device. Available: cuda, cpu."),
        (
            "cuda:2",
            "--device cuda:2: this machine has no such device. It has 2 cuda devices; write --device cuda:0 to cuda:1.",
        ),
        ("cuda:one", "--device cuda:one: this machine has no such device."),
        ("cpu:1", "--device cpu:1: this machine has no such device. It has 1 cpu device; write --device cpu."),
    ],
)
def test_a_device_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(ConfigError, match=re.escape(message)):
        runtime.select_runtime(device)


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_if_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, fast: bool, expected: str) -> None:
    pretend(monkeypatch, bf16=fast)
    assert runtime.select_runtime("cpu").precision == expected
    for precision in ("fp32", "bf16", "int8"):
        assert runtime.select_runtime("cpu", precision).precision == precision


@pytest.mark.parametrize(
    ("amx", "bf16", "int8", "expected"),
    [
        (True, True, True, "bf16"),
        (False, True, True, "int8"),
        (False, True, False, "bf16"),
        (False, False, True, "int8"),
        (False, False, False, "fp32"),
    ],
)
def test_fast_is_8_bits_if_the_hardware_has_them_but_no_amx(
    monkeypatch: pytest.MonkeyPatch, amx: bool, bf16: bool, int8: bool, expected: str
) -> None:
    pretend(monkeypatch, bf16=bf16)
    monkeypatch.setattr(runtime, "has_amx", lambda: amx)
    monkeypatch.setattr(runtime, "has_fast_int8", lambda device: int8)
    assert runtime.select_runtime("cpu", "fast").precision == expected


@pytest.mark.parametrize(
    ("capabilities", "amx", "amd", "expected"),
    [
        ({"avx512_f": True, "avx512_vnni": True}, False, True, False),
        ({"avx512_f": True, "avx512_bf16": True}, False, True, True),
        ({"avx512_f": True, "avx512_bf16": True}, False, False, False),
        ({"neon": True, "bf16": True}, False, False, True),
        ({"neon": True, "bf16": False}, False, False, False),
        ({"avx512_bf16": False}, True, False, True),
    ],
    ids=["AVX-512", "AMD with AVX512_BF16", "Intel with AVX512_BF16", "Arm BF16", "Arm", "AMX"],
)
def test_cpus_that_multiply_bf16_fast(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], amx: bool, amd: bool, expected: bool
) -> None:
    monkeypatch.setattr(runtime, "_is_amd_cpu", lambda: amd)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert runtime.has_fast_bf16(CPU) == expected


def test_int8_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=1)
    message = r"int8 runs on x86 CPUs only, and the device is cuda\. Use --precision bf16 or fp32"
    with pytest.raises(ConfigError, match=message):
        runtime.select_runtime("cuda", "int8")


def test_int8_is_refused_and_never_chosen_on_a_cpu_where_it_gives_wrong_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(runtime, "_has_int8_products", lambda: True)
    monkeypatch.setattr(runtime, "has_exact_int8", lambda: False)
    # A virtual machine may promise instructions that it does not have.
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    message = r"int8 gives wrong numbers on this CPU: it has no VNNI instructions, .*Use --precision fp32"
    with pytest.raises(ConfigError, match=message):
        runtime.select_runtime("cpu", "int8")
    assert runtime.select_runtime("cpu", "fast").precision == "fp32"


def test_int8_is_not_chosen_on_a_cpu_without_fast_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert runtime.select_runtime("cpu", "fast").precision == "fp32"


@pytest.mark.skipif(not hasattr(torch.ops.onednn, "qlinear_pointwise"), reason="torch has no 8-bit products here")
def test_cpus_with_vnni_multiply_8_bits_exactly() -> None:
    if torch.cpu._is_vnni_supported():
        assert runtime.has_exact_int8()
    elif not getattr(torch.cpu, "get_capabilities", dict)().get("avx_vnni"):
        assert not runtime.has_exact_int8()


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match=r"Unknown precision 'fp16'\. Did you mean 'bf16'"):
        runtime.select_runtime("cpu", "fp16")


def test_the_cpu_is_described_and_needs_no_waiting() -> None:
    cpu = runtime.Runtime(CPU, "fp32")
    cpu.synchronize()
    assert re.match(rf"CPU, {torch.get_num_threads()} threads?, ", cpu.describe())


def test_versions_name_what_numbers_depend_on() -> None:
    versions = runtime.package_versions()
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"icecore", "python", "torch", "transformers"}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_exhausted_memory_says_what_to_lower(error: Exception) -> None:
    advice = pytest.raises(UserError, match=r"out of memory on CPU.*64 rows.*Lower --micro-batch \(now 64")
    with advice, runtime.Runtime(CPU, "fp32").memory_advice(64):
        raise error


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), runtime.Runtime(CPU, "fp32").memory_advice(64):
        raise RuntimeError("shapes do not match")


def test_memory_is_that_of_the_machine_or_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, expected in (("max\n", machine), ("4096\n", 4096), (f"{2 * machine}\n", machine)):
        monkeypatch.setattr(Path, "read_text", lambda path, limit=limit: limit)
        assert runtime.total_memory(CPU) == expected


def test_processes_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "4096")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert runtime.total_memory(CPU) == 1024
    monkeypatch.setenv(runtime.MEMORY_SHARE_VARIABLE, "0.5")
    assert runtime.total_memory(CPU) == 2048


@pytest.mark.parametrize("given", ["half", "0", "-1", "1.5", ""])
def test_a_wrong_share_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime.MEMORY_SHARE_VARIABLE, given)
    with pytest.raises(ConfigError, match=f"ICECORE_MEMORY_SHARE={given}: expected a share"):
        runtime.total_memory(CPU)


def test_moving_a_tensor_to_its_own_device_copies_nothing() -> None:
    x = torch.ones(3)
    assert runtime.to_device(x, CPU) is x
