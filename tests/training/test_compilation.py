"""When compiled kernels are taken: by the amount of work asked for, and only where they can be made."""

import pytest
import torch
from torch import nn

from icecore.backbones import BodyRequest, build_backbone
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitXor
from icecore.training import compilation
from icecore.training.compilation import COMPILE_FROM, pays_to_compile


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FPT:
    monkeypatch.setattr(compilation, "can_compile", lambda device: True)
    model = FPT(BitXor(3).spec, build_backbone(BodyRequest("minilm", "random", layers=1)), [0])
    model.precision = "int8"
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_cpu_only_eight_bits_pay(model: FPT, precision: str) -> None:
    assert pays_to_compile(model, 10**15)
    model.precision = precision
    assert not pays_to_compile(model, 10**15)


def test_long_work_pays_and_training_is_twice_the_work(model: FPT) -> None:
    enough = int(COMPILE_FROM["cpu"] / (4 * model.counts()[1] * model.spec.length)) + 1
    assert pays_to_compile(model, enough)
    assert not pays_to_compile(model, enough - 2)
    assert not pays_to_compile(model, enough, training=False)
    assert pays_to_compile(model, 2 * enough, training=False)


def test_without_a_compiler_nothing_pays(model: FPT, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(compilation, "can_compile", lambda device: asked.append(device) or False)
    assert not pays_to_compile(model, 10**15)
    assert asked == [torch.device("cpu")]


def test_devices_without_a_number_never_pay(model: FPT, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = nn.Parameter(torch.empty(0, device="meta"))
    monkeypatch.setattr(model, "parameters", lambda: iter([elsewhere]))
    assert not pays_to_compile(model, 10**15)
