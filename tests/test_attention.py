"""Attention maps: weights that sum to one, padding left out, the needed bits measured, a picture drawn."""

from pathlib import Path

import pytest
import torch

from icecore import attention
from icecore.attention import AttentionMaps, attention_maps
from icecore.backbones import BodyRequest, build_backbone
from icecore.errors import ConfigError
from icecore.model import FPT
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Examples, StoredTask, TaskSpec


class Words(StoredTask):
    name = "words"
    spec = TaskSpec("discrete", 6, 5, 2)

    def tokens(self, inputs, lengths):
        return inputs.long()


@pytest.fixture
def short() -> Words:
    part = Examples(torch.randint(5, (4, 6), dtype=torch.uint8), torch.zeros(4).long(), torch.tensor([2, 3, 3, 4]))
    return Words({"val": part})


def model(task, name: str = "minilm") -> FPT:
    return FPT(task.spec, build_backbone(BodyRequest(name, "random", layers=None if name == "none" else 1)), [0])


def test_maps_are_distributions():
    task = BitXor(n=3)
    found = attention_maps(model(task), task, examples=5)
    assert found.maps.shape == (1, 12, 6, 6)
    torch.testing.assert_close(found.maps.sum(-1), torch.ones(1, 12, 6))


def test_padding_is_neither_averaged_nor_attended_to(short: Words):
    maps = attention_maps(model(short), short, examples=4).maps
    torch.testing.assert_close(maps[..., :4, :].sum(-1), torch.ones(1, 12, 4))
    assert (maps[..., 4:, :] == 0).all(), "no example has a fifth token"
    assert (maps[..., :, 4:] == 0).all()


def test_the_model_is_left_as_it_was():
    task = BitXor(n=2)
    held = model(task)
    attention_maps(held, task)
    assert held.backbone.axis.record is None


def test_mass_on_needed_bits():
    task = BitXor(n=2)
    uniform = AttentionMaps(torch.full((1, 1, 4, 4), 0.25), 1)
    assert uniform.relevant_mass(task).item() == pytest.approx(0.5)
    exact = torch.zeros(1, 1, 4, 4)
    for i in range(2):
        exact[0, 0, 2 + i, list(task.relevant(i))] = 0.5
    assert AttentionMaps(exact, 1).relevant_mass(task).item() == pytest.approx(1.0)


def test_a_body_without_attention_is_refused():
    task = BitXor(n=2)
    with pytest.raises(ConfigError, match="none: this body has no attention maps"):
        attention_maps(model(task, "none"), task)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures(tmp_path: Path, kind: str, short: Words):
    for task in (BitXor(n=2), short):
        path = tmp_path / f"{task.name}.{kind}"
        attention.draw(AttentionMaps(torch.rand(2, 3, task.spec.length, task.spec.length), 1), path, "title", task)
        assert path.stat().st_size > 1000
