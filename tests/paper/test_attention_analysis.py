"""Attention maps: weights that sum to one, padding left out, the needed bits measured, a picture drawn."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from icecore.backbones import BodyRequest, build_backbone
from icecore.backbones.modules.run_axis import RunAxis
from icecore.core.errors import ConfigError
from icecore.model.fpt import FPT
from icecore.paper import attention_analysis as attention
from icecore.paper.attention_analysis import AttentionMaps, attention_maps, xor_attention
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Batch, Examples, StoredTask, TaskSpec


class Words(StoredTask):
    name = "words"
    spec = TaskSpec("discrete", 6, 5, 2)

    def tokens(self, inputs, lengths):
        return inputs.long()


@pytest.fixture
def short() -> Words:
    part = Examples(torch.randint(5, (4, 6), dtype=torch.uint8), torch.zeros(4).long(), torch.tensor([2, 3, 3, 4]))
    return Words({"val": part})


def model(task, name: str = "minilm", layers: int = 1, seeds: Sequence[int] = (0,)) -> FPT:
    return FPT(task.spec, build_backbone(BodyRequest(name, "random", None if name == "none" else layers)), seeds)


class HandMade:
    """In a model's place: two layers of one head, each row's weights made by `weights(length)` on its real tokens."""

    runs = 1

    def __init__(self, weights, causal: bool = False) -> None:
        self.weights = weights
        self.backbone = SimpleNamespace(axis=RunAxis(), info=SimpleNamespace(name="hand-made", causal=causal))

    def __call__(self, batch: Batch) -> None:
        T = batch.tokens.shape[1]
        lengths = [T] * len(batch) if batch.lengths is None else batch.lengths.tolist()
        for layer in range(2):
            # what padding attends to is anybody's guess; nobody attends to padding
            rows = torch.full((len(batch), 1, T, T), 9.0)
            for row, length in zip(rows, lengths, strict=True):
                row[:, :length, length:] = 0
                row[:, :length, :length] = self.weights(length).roll(layer, -1)
            self.backbone.axis.record.append(rows)


def maps_of(held: Any, task, **settings: Any) -> AttentionMaps:
    return attention_maps(held, task, **settings)


def xor_maps(n: int, L: int = 1, H: int = 1) -> Tensor:
    return torch.rand(L, H, 2 * n, 2 * n, generator=torch.Generator().manual_seed(0)).softmax(-1)


def recorded(held: FPT, task, examples: int) -> Tensor:
    """The straight way: all weights (L, N, H, T, T) of one pass at once."""
    held.backbone.axis.record = []
    with torch.inference_mode():
        held(next(iter(task.batches("val", examples, examples))))
    weights, held.backbone.axis.record = torch.stack(held.backbone.axis.record), None
    return weights


# what is averaged


@pytest.mark.parametrize("scores", [1, 100, 2**20])
def test_maps_equal_the_mean_of_everything_recorded_however_passes_are_cut(scores: int, monkeypatch):
    monkeypatch.setattr(attention, "PASS_SCORES", scores)
    task = BitXor(n=3)
    held = model(task, layers=2)
    found = maps_of(held, task, examples=5)
    assert found.maps.shape == (2, 12, 6, 6)
    assert (found.examples, found.causal, found.stride) == (5, False, 1)
    torch.testing.assert_close(found.maps, recorded(held, task, 5).mean(1))
    torch.testing.assert_close(found.maps.sum(-1), torch.ones(2, 12, 6))


def test_a_causal_body_sees_nothing_later():
    task = BitXor(n=2)
    found = maps_of(model(task, "gpt2"), task, examples=3)
    assert found.causal
    assert (found.maps.triu(1) == 0).all()


def test_padding_is_neither_averaged_nor_attended_to(short: Words):
    maps = maps_of(model(short), short, examples=4).maps
    torch.testing.assert_close(maps[..., :4, :].sum(-1), torch.ones(1, 12, 4))
    assert (maps[..., 4:, :] == 0).all(), "no example has a fifth token"
    assert (maps[..., :, 4:] == 0).all()


def test_a_short_example_counts_only_where_it_has_tokens(short: Words):
    found = maps_of(HandMade(lambda length: torch.eye(length)), short)
    expected = torch.zeros(2, 1, 6, 6)
    expected[0, 0, :4, :4] = torch.eye(4)
    # in the second layer each token attends to the next and an example's last to its first: the lengths are 2, 3, 3, 4
    expected[1, 0, :4, :4] = torch.tensor([[0, 1, 0, 0], [1 / 4, 0, 3 / 4, 0], [2 / 3, 0, 0, 1 / 3], [1, 0, 0, 0]])
    torch.testing.assert_close(found.maps, expected)
    assert found.examples == 4, "there are no more"


def test_long_tasks_are_pooled_to_the_mean_query_of_a_cell(short: Words):
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.3, 0.3, 0.2, 0.2], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]])
    one = Words({"val": Examples(torch.zeros(1, 6, dtype=torch.uint8), torch.zeros(1).long(), torch.tensor([4]))})
    found = maps_of(HandMade(lambda length: weights), one, cells=3)
    assert found.stride == 2
    expected = torch.tensor([[0.45, 0.55, 0.0], [0.75, 0.25, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(found.maps[0, 0], expected)
    uneven = maps_of(model(short), short, cells=4)
    assert uneven.maps.shape[-1] == 3
    torch.testing.assert_close(uneven.maps[..., :2, :].sum(-1), torch.ones(1, 12, 2))


def test_layers_are_added_up_as_they_come(monkeypatch):
    seen = []
    monkeypatch.setattr(attention._Sums, "append", lambda self, weights: seen.append(len(self)))
    task = BitXor(n=2)
    with pytest.raises(ConfigError):
        maps_of(model(task, layers=2), task, examples=1)
    assert seen == [0, 0], "the body keeps no weights itself"


@pytest.mark.parametrize("name", ["minilm", "none"])
def test_the_model_is_left_as_it_was(name: str):
    task = BitXor(n=2)
    held = model(task, name)
    try:
        attention_maps(held, task)
    except ConfigError:
        assert name == "none"
    assert held.backbone.axis.record is None


def test_what_cannot_be_recorded_is_refused():
    task = BitXor(n=2)
    with pytest.raises(ConfigError, match="none: this body has no attention maps"):
        attention_maps(model(task, "none"), task)
    with pytest.raises(ConfigError, match="attention maps are of one run; this model has 2"):
        attention_maps(model(task, seeds=[0, 1]), task)
    with pytest.raises(ConfigError, match="examples: expected at least 1, found 0"):
        attention_maps(model(task), task, examples=0)


# what is measured on bit XOR


def test_mass_on_each_needed_bit():
    task = BitXor(n=2)
    maps = torch.full((1, 2, 4, 4), 0.25)
    maps[0, 1] = torch.tensor([[9.0] * 4, [9.0] * 4, [0.6, 0.1, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1]])
    found = xor_attention(AttentionMaps(maps, 1), task)
    torch.testing.assert_close(found.first, torch.tensor([[0.25, 0.5]]))
    torch.testing.assert_close(found.own, torch.tensor([[0.25, 0.15]]))
    torch.testing.assert_close(found.mass, torch.tensor([[0.5, 0.65]]))
    torch.testing.assert_close(AttentionMaps(maps, 1).relevant_mass(task), found.mass)


@pytest.mark.parametrize(("causal", "expected"), [(False, 1 / 2), (True, (2 / 3 + 2 / 4) / 2)])
def test_equal_weights_on_what_is_visible_give_the_uniform_mass(causal: bool, expected: float):
    weights = torch.ones(1, 1, 4, 4)
    weights = weights.tril() if causal else weights
    found = xor_attention(AttentionMaps(weights / weights.sum(-1, keepdim=True), 1, causal), BitXor(n=2))
    assert found.uniform == pytest.approx(expected)
    assert found.mass.item() == pytest.approx(expected)


def test_masses_of_256_bits_are_exact():
    """A T of 512 in the bounded way: half of each output's attention on its first bit, a quarter on its own."""
    n = 256
    weights = torch.full((2 * n, 2 * n), 0.25 / (2 * n))
    weights += 0.5 * torch.eye(2 * n).roll(n, 0) + 0.25 * torch.eye(2 * n)
    found = xor_attention(maps_of(HandMade(lambda length: weights), BitXor(n), examples=3), BitXor(n))
    torch.testing.assert_close(found.first[0, 0].item(), 0.5 + 0.25 / 512)
    torch.testing.assert_close(found.own[0, 0].item(), 0.25 + 0.25 / 512)
    assert found.summary()["ratio"] == pytest.approx((0.75 + 0.5 / 512) * 256)


def test_more_than_512_positions_of_bit_xor_are_not_pooled(monkeypatch):
    monkeypatch.setattr(attention, "CELLS", 4)
    found = maps_of(HandMade(lambda length: torch.eye(length)), BitXor(n=3))
    assert found.stride == 1
    assert xor_attention(found, BitXor(n=3)).own[0].item() == 1


def test_summary_is_for_records():
    n, mass = 2, torch.tensor([[0.1, 0.2], [0.3, 0.1]])
    found = attention.XorAttention(n, mass, torch.tensor([[0.0, 0.4], [0.2, 0.1]]), 0.5)
    summary = json.loads(json.dumps(found.summary()))
    assert (summary["n"], summary["layers"], summary["heads"]) == (2, 2, 2)
    assert (summary["best_layer"], summary["best_head"]) == (1, 2)
    expected = {"mean": 0.35, "best": 0.6, "first_bit_best": 0.3, "own_bit_best": 0.4, "uniform": 0.5, "ratio": 1.2}
    expected["first_bit_ratio"] = 1.2
    assert {name: summary[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (AttentionMaps(torch.ones(1, 1, 4, 4), 1), "n = 3 needs maps of 6 x 6 positions, found 4 x 4 cells"),
        (AttentionMaps(torch.ones(1, 1, 6, 6), 1, stride=2), "n = 3 needs maps of 6 x 6 positions"),
    ],
)
def test_maps_that_cannot_be_measured_are_refused(maps: AttentionMaps, message: str):
    with pytest.raises(ConfigError, match=message):
        xor_attention(maps, BitXor(n=3))


# what is drawn: an SVG holds its texts as comments beside their outlines


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures(tmp_path: Path, kind: str, short: Words):
    for task in (BitXor(n=2), short):
        path = tmp_path / f"{task.name}.{kind}"
        maps = torch.rand(2, 3, task.spec.length, task.spec.length)
        kept = maps.clone()
        attention.draw(AttentionMaps(maps, 1), path, "title", task)
        assert path.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")
        assert torch.equal(maps, kept), "drawing changes nothing"


def test_long_strings_are_drawn_small_and_say_how(tmp_path: Path):
    path = tmp_path / "long.svg"
    attention.draw(AttentionMaps(xor_maps(256, 6), 1), path, "title", BitXor(256))
    assert path.stat().st_size < 2**20
    assert "below the lines" in path.read_text()
    assert "a dot is 4 x 4 positions" in path.read_text()


def test_deep_bodies_show_their_most_telling_layers(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(attention, "LAYERS", 2)
    path, maps = tmp_path / "deep.svg", xor_maps(2, 4, 2)
    for layer in (0, 3):
        maps[layer, 1, 2:] = torch.eye(4)[2:]  # all attention on the outputs' own bits
    attention.draw(AttentionMaps(maps, 1), path, "title", BitXor(2))
    assert "the 2 most telling of 4 layers" in path.read_text()
    shown = [layer for layer in range(4) if f"<!-- layer {layer + 1}, head 2 -->" in path.read_text()]
    assert shown == [0, 3]


def test_one_weight_of_one_is_no_division_by_zero(tmp_path: Path, short: Words):
    attention.draw(AttentionMaps(torch.eye(6).expand(1, 2, 6, 6), 1), tmp_path / "one.png", "title", short)
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_drawing_says_what_to_install(tmp_path: Path, monkeypatch, short: Words):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(attention.UserError, match=r"pip install 'icecore\[plot\]'"):
        attention.draw(AttentionMaps(torch.rand(1, 1, 6, 6), 1), tmp_path / "x.png", "title", short)
