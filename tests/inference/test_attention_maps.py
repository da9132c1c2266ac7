"""Attention maps: rows sum to one, and padding does not count."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_samples import HandMade
from icecore.backbones import BodyRequest, build_backbone
from icecore.core.errors import ConfigError
from icecore.inference import attention_maps as recording
from icecore.inference.attention_maps import AttentionMaps, attention_maps
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import TaskSpec


class Words(StoredTask):
    name = "words"
    spec = TaskSpec("discrete", 6, 5, 2)

    def tokens(self, inputs, lengths):
        return inputs.long()


@pytest.fixture
def short() -> Words:
    part = Examples(torch.randint(5, (4, 6), dtype=torch.uint8), torch.zeros(4).long(), torch.tensor([2, 3, 3, 4]))
    return Words({"val": part})


def build_model(task, name: str = "minilm", layers: int = 1, seeds: Sequence[int] = (0,)) -> FPT:
    return FPT(task.spec, build_backbone(BodyRequest(name, "random", None if name == "none" else layers)), seeds)


def maps_of(model: Any, task, **settings: Any) -> AttentionMaps:
    return attention_maps(model, task, **settings)


def recorded_weights(model: FPT, task, examples: int) -> Tensor:
    """All weights (L, N, H, T, T) of one pass, kept in memory at once."""
    layers: list[Tensor] = []
    with torch.inference_mode():
        model.features(next(iter(task.batches("val", examples, examples))), record=layers.append)
    return torch.stack(layers)


# --- averages over examples ---


@pytest.mark.parametrize("weights_per_pass", [1, 100, 2**20])
def test_maps_are_the_mean_of_recorded_weights_for_any_size_of_passes(weights_per_pass: int, monkeypatch):
    monkeypatch.setattr(recording, "WEIGHTS_PER_PASS", weights_per_pass)
    task = BitXor(n=3)
    model = build_model(task, layers=2)
    maps = maps_of(model, task, examples=5)
    assert maps.maps.shape == (2, 12, 6, 6)
    assert (maps.examples, maps.causal, maps.stride) == (5, False, 1)
    torch.testing.assert_close(maps.maps, recorded_weights(model, task, 5).mean(1))
    torch.testing.assert_close(maps.maps.sum(-1), torch.ones(2, 12, 6))


def test_a_causal_body_attends_to_no_later_position():
    task = BitXor(n=2)
    maps = maps_of(build_model(task, "gpt2"), task, examples=3)
    assert maps.causal
    assert (maps.maps.triu(1) == 0).all()


def test_padding_is_neither_averaged_nor_attended_to(short: Words):
    maps = maps_of(build_model(short), short, examples=4).maps
    torch.testing.assert_close(maps[..., :4, :].sum(-1), torch.ones(1, 12, 4))
    assert (maps[..., 4:, :] == 0).all(), "no example has a fifth token"
    assert (maps[..., :, 4:] == 0).all()


def test_a_short_example_counts_only_at_its_own_tokens(short: Words):
    maps = maps_of(HandMade(lambda length: torch.eye(length)), short)
    expected = torch.zeros(2, 1, 6, 6)
    expected[0, 0, :4, :4] = torch.eye(4)
    # in the second layer each token attends to the next one and the last to the first; lengths are 2, 3, 3, 4
    expected[1, 0, :4, :4] = torch.tensor([[0, 1, 0, 0], [1 / 4, 0, 3 / 4, 0], [2 / 3, 0, 0, 1 / 3], [1, 0, 0, 0]])
    torch.testing.assert_close(maps.maps, expected)
    assert maps.examples == 4, "the split has no more examples"


def test_maps_of_long_tasks_are_pooled_to_mean_queries_of_cells(short: Words):
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.3, 0.3, 0.2, 0.2], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]])
    one = Words({"val": Examples(torch.zeros(1, 6, dtype=torch.uint8), torch.zeros(1).long(), torch.tensor([4]))})
    maps = maps_of(HandMade(lambda length: weights), one, cells=3)
    assert maps.stride == 2
    expected = torch.tensor([[0.45, 0.55, 0.0], [0.75, 0.25, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(maps.maps[0, 0], expected)
    uneven = maps_of(build_model(short), short, cells=4)
    assert uneven.maps.shape[-1] == 3
    torch.testing.assert_close(uneven.maps[..., :2, :].sum(-1), torch.ones(1, 12, 2))


def test_weights_of_a_layer_are_added_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(recording._WeightSums, "add", lambda self, weights: seen.append(len(self.layers)))
    task = BitXor(n=2)
    with pytest.raises(ConfigError):
        maps_of(build_model(task, layers=2), task, examples=1)
    assert seen == [0, 0], "the body stores no weights itself"


def test_recording_changes_neither_the_model_nor_its_later_passes():
    task = BitXor(n=2)
    model = build_model(task)
    batch = next(iter(task.batches("val", 4, 4)))
    with torch.inference_mode():
        before, state = model(batch), {name: value.clone() for name, value in model.state_dict().items()}
        attention_maps(model, task)
        assert torch.equal(model(batch), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_models_without_recordable_attention_are_refused():
    task = BitXor(n=2)
    with pytest.raises(ConfigError, match="none: This body has no attention maps"):
        attention_maps(build_model(task, "none"), task)
    with pytest.raises(ConfigError, match="Attention maps are of one run, but this model has 2"):
        attention_maps(build_model(task, seeds=[0, 1]), task)
    with pytest.raises(ConfigError, match="examples is 0, but must be at least 1"):
        attention_maps(build_model(task), task, examples=0)


def test_maps_of_bit_xor_are_never_pooled(monkeypatch):
    monkeypatch.setattr(recording, "MAX_CELLS", 4)
    maps = maps_of(HandMade(lambda length: torch.eye(length)), BitXor(n=3))
    assert maps.stride == 1
    assert torch.equal(maps.maps[0, 0], torch.eye(6))
