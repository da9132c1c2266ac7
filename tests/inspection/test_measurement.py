"""Inspections equal what the library says of the same tiny model, every family can be inspected, nothing is changed."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import Ragged
from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.backbones.lstm import build_matched
from icecore.core.errors import ConfigError
from icecore.inspection import measurement
from icecore.inspection.layer_statistics import HiddenStatistics
from icecore.inspection.measurement import Inspection, measure_model
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitXor
from tiny_models import TINY, D, tiny_body, tiny_model

WIDTH = {"width": "16"}
#: families whose last norm belongs to the last block
POST_NORM = {"bert", "roberta", "longformer", "electra", "distilbert", "mpnet"}
#: families that read pixels, and those with attention of their own
VISION, OWN_ATTENTION = {"vit", "deit", "dinov2"}, ("longformer", "mpnet")


def library_inputs(case: str, model: FPT, tokens: Tensor) -> Tensor:
    """What the library's model reads: the body's inputs without the positions that it adds itself."""
    x = model._stack().embed(tokens, None)
    assert model.positions is not None
    return x if model.backbone.position_table is None else x - model.positions[0, : x.shape[1]]


def check_hidden(found: HiddenStatistics, expected: Tensor) -> None:
    """Compare with plain formulas on the library's hidden states (N, T, D)."""
    rms = expected.square().mean(-1).sqrt()
    torch.testing.assert_close(found.rms_by_position.float(), rms.mean(0), rtol=1e-4, atol=1e-6)
    assert found.rms == pytest.approx(float(rms.mean()), rel=1e-4)
    shares = (expected.square() / expected.square().sum(-1, keepdim=True)).mean((0, 1))
    assert found.top_dimension == int(shares.argmax())
    assert found.top_share == pytest.approx(float(shares.max()), rel=1e-4)
    T = expected.shape[1]
    cosines = torch.cosine_similarity(expected[:, :, None], expected[:, None], dim=-1)
    assert found.cosine == pytest.approx(float(((cosines.sum((1, 2)) - T) / (T * (T - 1))).mean()), abs=1e-5)


@pytest.mark.parametrize("case", [case for case in TINY if TINY[case][0] not in VISION])
def test_values_are_those_of_the_library(case: str) -> None:
    """Its hidden states start before the first layer and end after the last norm."""
    task, reference = BitXor(n=8), tiny_model(case)
    model = FPT(task.spec, tiny_body(case, reference))
    tokens = next(iter(task.batches("val", 5, 5))).tokens
    with torch.no_grad():
        inputs = library_inputs(case, model, tokens)
        out = reference(inputs_embeds=inputs, output_hidden_states=True, output_attentions=True)
    inspection = measure_model(model, task, examples=5)
    stages = {stage.name: stage for stage in inspection.stages}
    first = "first norm" if case in {*POST_NORM, "modernbert"} else "input"
    last = "layer 2" if case in POST_NORM else "last norm"
    for name, expected in zip((first, "layer 1", last), out.hidden_states, strict=True):
        check_hidden(stages[name].hidden, expected)
    if case in OWN_ATTENTION:
        assert stages["layer 1"].attention is None
        assert inspection.findings[-1].startswith("icecore records no attention of")
        return
    assert not any("records no attention" in sentence for sentence in inspection.findings)
    for layer, weights in enumerate(out.attentions, 1):
        found = stages[f"layer {layer}"].attention
        assert found is not None
        assert found.first == pytest.approx(float(weights[..., 0].mean()), abs=1e-5)
        torch.testing.assert_close(found.received, weights.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
        entropy = -torch.xlogy(weights, weights).sum(-1)
        assert found.reach == pytest.approx(float(entropy.exp().mean()), rel=1e-4)


def bodies_of_other_kinds() -> dict[str, Backbone]:
    return {
        "lstm": build_backbone(BodyRequest("lstm", "random", options=WIDTH)),
        "lstm-star": build_backbone(BodyRequest("lstm-star", "random", layers=2, options=WIDTH)),
        "lstm-matched": build_matched(16, 2, frozen=4000, norms=6),
    }


@pytest.mark.parametrize("case", [*TINY, "lstm", "lstm-star", "lstm-matched"])
def test_every_family_can_be_inspected(case: str, ragged: Ragged) -> None:
    body = tiny_body(case) if case in TINY else bodies_of_other_kinds()[case]
    inspection = measure_model(FPT(ragged.spec, body), ragged, examples=6)
    names = [stage.name for stage in inspection.stages]
    assert names[0] == "input"
    assert [name for name in names if name.startswith("layer")] == [
        f"layer {n}" for n in range(1, body.info.layers + 1)
    ]
    assert sum(len(stage.norms) for stage in inspection.stages) == len(body.norms())
    assert (inspection.examples, inspection.length) == (6, 9)
    for stage in inspection.stages:
        assert stage.hidden.not_finite == 0
        assert stage.hidden.rms > 0
        assert (stage.attention is None) == (
            case in (*OWN_ATTENTION, *bodies_of_other_kinds()) or "layer" not in stage.name
        )
    json.dumps(inspection.to_json(), allow_nan=False)


@pytest.mark.parametrize("case", ["bert", "gpt2"])
def test_padding_does_not_change_the_numbers(case: str, ragged: Ragged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row alone, without padding, gives the same numbers as rows beside each other."""
    model = FPT(ragged.spec, tiny_body(case))
    together = measure_model(model, ragged, examples=6).to_json()
    monkeypatch.setattr(measurement, "WEIGHTS_PER_PASS", 1)
    check_equal(measure_model(model, ragged, examples=6).to_json(), together)


def check_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            check_equal(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            check_equal(*pair)
    else:
        assert found == (pytest.approx(expected, rel=1e-4, abs=1e-5) if isinstance(expected, float) else expected)


def test_trained_norms_are_measured_not_the_body_s() -> None:
    task = BitXor(n=2)
    model = FPT(task.spec, tiny_body("llama"))
    before = measure_model(model, task, examples=2)
    for gains in model.norms:
        gains.weight.data *= 3  # type: ignore[operator]
    after = measure_model(model, task, examples=2)
    for old, new in zip(before.stages, after.stages, strict=True):
        assert [norm.gain for norm in new.norms] == pytest.approx([3 * norm.gain for norm in old.norms])
    assert after.stages[-1].hidden.rms > 2 * before.stages[-1].hidden.rms


def test_norms_have_their_places_and_names() -> None:
    inspection = measure_model(FPT(BitXor(n=2).spec, tiny_body("bert")), BitXor(n=2), examples=2)
    places = {stage.name: [norm.name for norm in stage.norms] for stage in inspection.stages}
    assert places["input"] == []
    assert places["first norm"] == ["model.embeddings.LayerNorm"]
    assert places["layer 2"][0] == "model.encoder.layer.1.attention.output.LayerNorm"
    last = measure_model(FPT(BitXor(n=2).spec, tiny_body("gpt2")), BitXor(n=2), examples=2).stages[-1]
    assert (last.name, [norm.name for norm in last.norms]) == ("last norm", ["model.ln_f"])


def test_an_inspection_changes_neither_the_model_nor_its_later_passes() -> None:
    task = BitXor(n=2)
    model = FPT(task.spec, tiny_body("gpt2"))
    batch = next(iter(task.batches("val", 4, 4)))
    with torch.inference_mode():
        before, state = model(batch), {name: value.clone() for name, value in model.state_dict().items()}
        measure_model(model, task)
        assert torch.equal(model(batch), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.backbone.residual_blocks()[:1])
    assert not model.backbone._forward_pre_hooks


def test_hidden_states_at_the_read_positions_are_the_features() -> None:
    task = BitXor(n=3)
    for case in ("bert", "llama"):
        model = FPT(task.spec, tiny_body(case))
        batch = next(iter(task.batches("val", 4, 4)))
        with torch.inference_mode():
            hidden = model.hidden_states(batch)
            assert hidden.shape == (4, 6, D)
            torch.testing.assert_close(hidden[:, 3:], model.features(batch))


def test_json_has_the_numbers_of_the_table() -> None:
    inspection: Inspection = measure_model(FPT(BitXor(n=2).spec, tiny_body("llama")), BitXor(n=2), examples=3)
    values = json.loads(json.dumps(inspection.to_json()))
    assert (values["body"]["family"], values["task"], values["examples"]) == ("llama", "bit-xor", 3)
    layer = next(stage for stage in values["stages"] if stage["name"] == "layer 1")
    assert layer["rms_max"] == max(layer["rms_by_position"])
    assert layer["rms_by_position"][layer["rms_min_position"]] == layer["rms_min"]
    assert layer["attention"]["first"] == pytest.approx(layer["attention"]["received"][0])
    assert [norm["bias"] for norm in layer["norms"]] == [None, None]
    assert values["findings"] == inspection.findings


def test_values_that_are_not_finite_are_null_and_a_finding() -> None:
    task = BitXor(n=2)
    model = FPT(task.spec, tiny_body("llama"))
    next(iter(model.norms)).weight.data[:] = torch.inf  # type: ignore[index]
    inspection = measure_model(model, task, examples=2)
    stages = {stage["name"]: stage for stage in json.loads(json.dumps(inspection.to_json(), allow_nan=False))["stages"]}
    assert stages["input"]["not_finite"] == 0
    assert stages["layer 1"]["not_finite"] == 1
    assert stages["layer 1"]["rms"] is None
    assert inspection.findings[0].startswith(
        "Values are not finite after the last norm and after layers 1 to 2: in up "
    )


def test_what_cannot_be_inspected_is_refused() -> None:
    task = BitXor(n=2)
    with pytest.raises(ConfigError, match=r"none: There are no layers to inspect. Name a body"):
        measure_model(FPT(task.spec, build_backbone(BodyRequest("none"))), task)
    with pytest.raises(ConfigError, match="An inspection is of one run, but this model has 2"):
        measure_model(FPT(task.spec, tiny_body("bert"), [0, 1]), task)
    with pytest.raises(ConfigError, match="examples is 0, but must be at least 1"):
        measure_model(FPT(task.spec, tiny_body("bert")), task, examples=0)
