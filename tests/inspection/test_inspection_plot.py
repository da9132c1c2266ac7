"""Pictures of inspections. An SVG has its texts as comments beside their outlines, or as text."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icecore.core.errors import ConfigError, UserError
from icecore.inspection.inspection_plot import _label_stages, draw_inspections
from icecore.inspection.measurement import Inspection, measure_model
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitXor
from tiny_models import tiny_body


def inspect(case: str, weights: str = "pretrained") -> Inspection:
    task = BitXor(n=2)
    inspection = measure_model(FPT(task.spec, tiny_body(case)), task, examples=2, start="not trained")
    return replace(inspection, body=replace(inspection.body, weights=weights))


@pytest.mark.parametrize("case", ["bert", "llama", "longformer"])
def test_a_picture_has_all_panels(case: str, tmp_path: Path) -> None:
    draw_inspections([inspect(case)], tmp_path / "one.svg")
    text = (tmp_path / "one.svg").read_text()
    for title in (
        "root mean square of the hidden states",
        "how alike tokens look",
        "(dotted: uniform)",
        "gains of each norm",
    ):
        assert title in text
    assert f"{case} on bit-xor: 2 examples, not trained" in text
    assert ("not recorded" in text) == (case == "longformer")


def test_two_bodies_are_told_apart(tmp_path: Path) -> None:
    draw_inspections([inspect("bert"), inspect("bert", "random")], tmp_path / "two.svg")
    text = (tmp_path / "two.svg").read_text()
    for label in ("pretrained weights", "random weights", "root mean square, pretrained", "root mean square, random"):
        assert label in text


def test_a_png_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    inspection = inspect("gpt2")
    for name in ("a.png", "b.png"):
        draw_inspections([inspection], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "a.png").stat().st_size < 150_000


def test_values_that_are_not_finite_are_drawn_as_gaps(tmp_path: Path) -> None:
    task, body = BitXor(n=2), tiny_body("llama")
    model = FPT(task.spec, body)
    next(iter(model.norms)).weight.data[:] = torch.inf  # type: ignore[index]
    draw_inspections([measure_model(model, task, examples=2)], tmp_path / "gaps.png")
    assert (tmp_path / "gaps.png").stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"a.jpg: The name of a picture must end in one of .png, .svg"):
        draw_inspections([inspect("bert")], tmp_path / "a.jpg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"Install it with: pip install 'icecore\[plot\]'"):
        draw_inspections([inspect("bert")], tmp_path / "a.png")


def test_labels_of_deep_bodies_keep_a_distance() -> None:
    (_, *layers, last), ticks = inspect("llama").stages, []
    deep = [replace(layers[0], name=f"layer {n}") for n in range(1, 31)]
    _label_stages(lambda places, labels: ticks.append((places, labels)), [replace(last, name="input"), *deep, last])
    places, labels = ticks[0]
    assert labels == ["input", *map(str, range(3, 30, 3)), "norm"]
    assert places == [0, *range(3, 30, 3), 31]
    _label_stages(lambda places, labels: ticks.append((places, labels)), [*deep[:6], last])
    assert ticks[1] == ([*range(7)], [*"123456", "norm"])
