"""Roles: every parameter of every body has exactly one, norms are found by what they compute."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from icecore.backbones import BACKBONES, Backbone, BodyRequest, Role, build_backbone
from icecore.backbones.backbone import fingerprint
from icecore.backbones.lstm import build_matched
from icecore.backbones.modules.norm import RunNorm
from icecore.backbones.modules.patching import norm_kind, replace_norms
from icecore.core.errors import ConfigError, WeightsError
from tiny_models import TINY, tiny_body

WIDTH = {"width": "16"}
RECURRENT: dict[str, Callable[[], Backbone]] = {
    "lstm": lambda: build_backbone(BodyRequest("lstm", "random", options=WIDTH)),
    "lstm-star": lambda: build_backbone(BodyRequest("lstm-star", "random", layers=2, options=WIDTH)),
    "lstm-matched": lambda: build_matched(16, 2, frozen=4000, norms=5),
    "none": lambda: build_backbone(BodyRequest("none", "random")),
}
CASES = [*TINY, *RECURRENT]


def body_of(case: str) -> Backbone:
    return RECURRENT[case]() if case in RECURRENT else tiny_body(case)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_has_exactly_one_role(case: str) -> None:
    body = body_of(case)
    roles = body.roles()
    assert set(roles) == {name for name, _ in body.named_parameters()}
    assert all(isinstance(role, Role) for role in roles.values())
    norms = {f"{name}.{part}" for name, norm in body.norms().items() for part, _ in norm.named_parameters()}
    assert {name for name, role in roles.items() if role is Role.NORM} == norms


@pytest.mark.parametrize("case", CASES)
def test_counts_are_the_parameters_and_the_table(case: str) -> None:
    body = body_of(case)
    counts = body.counts()
    table = 0 if body.position_table is None else body.position_table.numel()
    assert sum(counts.values()) == sum(p.numel() for p in body.parameters()) + table
    assert counts[Role.POSITION] == table
    assert sum(counts.values()) == sum(t.numel() for t in body.tensors().values())
    # rounding changes precisions, not numbers
    body.round_weights("bf16")
    assert body.counts() == counts


@pytest.mark.parametrize("case", TINY)
def test_attention_and_feedforward_are_matrices_of_the_blocks(case: str) -> None:
    body = body_of(case)
    roles, D = body.roles(), body.info.width
    counts = body.counts()
    matrices = dict.fromkeys(Role, 0)
    for name, parameter in body.named_parameters():
        if parameter.dim() == 2 and roles[name] is not Role.NORM:
            matrices[roles[name]] += parameter.numel()
    grouped = body.info.family in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
    bias_table = 32 * 4 if body.info.family in ("t5", "mpnet") else 0
    head = 12 if case in ("qwen3", "gemma3_text") else D // 4
    keys = 2 if grouped else 4
    projections = 2 * (2 * 4 * head * D + 2 * keys * head * D)
    if case == "longformer":
        projections += 2 * 3 * D * D  # projections of global attention
    assert matrices[Role.ATTENTION] == projections + bias_table
    # DINOv2's gated layer is two thirds as wide, rounded up to a multiple of 8
    inner = {"gpt2": 4 * D, "dinov2-swiglu": 48}.get(case, 64)
    gated = grouped or case in ("t5-gated", "modernbert", "dinov2-swiglu")
    assert matrices[Role.FEEDFORWARD] == 2 * (3 if gated else 2) * D * inner
    scales = 2 * 2 * D if body.info.family == "dinov2" else 0
    assert counts[Role.OTHER] == scales
    segments = {"bert": 2, "roberta": 2, "longformer": 2, "electra": 2}.get(body.info.family, 0)
    assert counts[Role.EMBEDDING] == segments * D


def test_papers_counts_of_gpt2_base() -> None:
    """Lu et al. 2021, Section 3: 36,864 in the blocks' norms; here also the final norm, and the whole table."""
    body = build_backbone(BodyRequest("gpt2", "random", layers=2))
    counts = body.counts()
    assert counts[Role.NORM] == 2 * 4 * 768 + 2 * 768
    assert 12 * (counts[Role.NORM] - 2 * 768) // 2 == 36_864
    assert counts[Role.POSITION] == 1024 * 768
    assert (counts[Role.ATTENTION] + counts[Role.FEEDFORWARD]) // 2 == 7_087_872 - 4 * 768


@pytest.mark.parametrize("case", [case for case in CASES if case != "none"])
def test_a_parameter_without_a_role_is_named(case: str) -> None:
    body = body_of(case)
    name = next(name for name, module in body.named_modules() if isinstance(module, nn.ModuleList))
    block = body.get_submodule(f"{name}.0")
    block.register_parameter("alien", nn.Parameter(torch.zeros(3)))
    kind = type(block).__name__
    with pytest.raises(TypeError, match=rf"Parameter {name}\.0\.alien of .*\({kind}\) has no role\. Teach"):
        body.roles()


@pytest.mark.parametrize("case", ["gpt2", "lstm", "none"])
def test_a_parameter_of_the_body_itself_is_named(case: str) -> None:
    body = body_of(case)
    body.register_parameter("alien", nn.Parameter(torch.zeros(3)))
    with pytest.raises(TypeError, match="Parameter alien of"):
        body.roles()


class GemmaNorm(nn.Module):
    """RMS norm whose gain is 1 + weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(width))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], None, self.eps) * (1 + self.weight)


class ExponentialNorm(nn.Module):
    """RMS norm whose gain is exp(weight), which no supported family has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(width))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight.exp()


class Scale(nn.Module):
    """One vector of gains and nothing normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape)
    return module


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (randomised(nn.LayerNorm(16)), "layer"),
        (randomised(nn.LayerNorm(16, eps=1e-2)), "layer"),
        (randomised(nn.LayerNorm(16, bias=False)), "layer"),
        (randomised(nn.RMSNorm(16, eps=1e-6)), "rms"),
        (nn.LayerNorm(16), "layer"),
        (nn.RMSNorm(16, eps=1e-6), "rms"),
        (GemmaNorm(16), "rms"),
        (ExponentialNorm(16), None),
        (Scale(16), None),
        (nn.Linear(16, 16), None),
        (nn.LayerNorm(16, elementwise_affine=False), None),
        (nn.LayerNorm([4, 4]), None),
        (nn.BatchNorm1d(16).eval(), None),
        (nn.PReLU(16), None),
        (nn.Embedding(4, 16), None),
        (nn.Sequential(nn.LayerNorm(16)), None),
    ],
    ids=lambda value: str(value).split("(")[0],
)
def test_norms_are_told_by_what_they_compute(module: nn.Module, kind: str | None) -> None:
    assert norm_kind(module) == kind


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.5, 3.0])
def test_gains_that_are_stored_less_one(spread: float) -> None:
    norm, x = GemmaNorm(16), torch.randn(5, 16)
    norm.weight.data = spread * torch.randn(16)
    body = nn.ModuleDict({"norm": norm})
    replace_norms(body)
    replaced = body["norm"]
    assert isinstance(replaced, RunNorm)
    torch.testing.assert_close(replaced(x), norm(x))
    torch.testing.assert_close(replaced.weight, 1 + norm.weight)


@pytest.mark.parametrize("gain", [0.0, 1.0, 1e-3, 50.0])
def test_gains_that_are_stored_as_they_are(gain: float) -> None:
    body = nn.ModuleDict({"norm": nn.RMSNorm(16, eps=1e-6)})
    torch.nn.init.constant_(body["norm"].weight, gain)  # type: ignore[arg-type]
    replace_norms(body)
    assert torch.equal(body["norm"].weight, torch.full((16,), gain))  # type: ignore[arg-type]


def test_a_norm_of_another_kind_is_refused_not_mistaken() -> None:
    body = tiny_body("gpt2")
    body.get_submodule("model.h.0").register_module("ln_1", ExponentialNorm(32))
    assert "model.h.0.ln_1" not in body.norms()
    with pytest.raises(TypeError, match=r"model\.h\.0\.ln_1\.weight of gpt2 \(ExponentialNorm\) has no role"):
        body.roles()


@pytest.mark.parametrize("case", TINY)
def test_body_holds_no_token_embedding_and_is_frozen(case: str) -> None:
    body = body_of(case)
    assert all(p.shape[0] != 7 for p in body.parameters())
    assert not any(p.requires_grad for p in body.parameters())
    assert not any(module.training for module in body.model.modules())  # type: ignore[union-attr]
    assert not any(isinstance(module, nn.LayerNorm | nn.Dropout) for module in body.modules())


def test_tensors_are_the_bodys_own_and_need_no_gradients() -> None:
    body = tiny_body("bert")
    parameters = dict(body.named_parameters()) | {"positions": body.position_table}
    tensors = body.tensors()
    assert tensors.keys() == parameters.keys()
    for name, tensor in tensors.items():
        original = parameters[name]
        assert original is not None
        assert tensor is not original
        assert not tensor.requires_grad
        assert tensor.shape == original.shape
        assert tensor.data_ptr() == original.data_ptr()
    for name, norm in body.norms().items():
        assert isinstance(norm, RunNorm)
        assert tensors[f"{name}.weight"].shape == (body.info.width,)


def test_fingerprint_knows_names_shapes_and_values_but_no_order() -> None:
    a, b = torch.randn(2, 3), torch.randn(4)
    base = fingerprint({"a": a, "b": b})
    assert base == fingerprint({"b": b.clone(), "a": a.clone()})
    assert base == fingerprint({"a": a.t().contiguous().t(), "b": b})
    changed = b.clone()
    changed[3] = math.nextafter(1.0, 2.0) + changed[3]
    others = [{"a": a, "b": changed}, {"a": a.view(3, 2), "b": b}, {"a": a, "c": b}, {"a": a}]
    assert len({base, *map(fingerprint, others)}) == 5


@pytest.mark.parametrize("name", ["lstm", "lstm-star", "lstm-matched", "lstm-matched:minilm"])
@pytest.mark.parametrize("weights", ["pretrained", "statistics"])
def test_recurrent_bodies_have_no_pretrained_weights(name: str, weights: str) -> None:
    with pytest.raises(WeightsError, match=f"no {weights} weights.*Use --weights random"):
        build_backbone(BodyRequest(name, weights))


@pytest.mark.parametrize("weights", ["pretrained", "statistics", "random"])
def test_no_body_takes_any_weights(weights: str) -> None:
    x = torch.randn(2, 3, 64)
    assert torch.equal(build_backbone(BodyRequest("none", weights))(x), x)


def test_lstm_matched_has_the_counts_of_the_named_transformer() -> None:
    like = build_backbone(BodyRequest("minilm", "random", layers=2)).counts()
    body = build_backbone(BodyRequest("lstm-matched:minilm", "random", layers=2))
    counts = body.counts()
    assert counts[Role.NORM] == like[Role.NORM]
    assert counts[Role.POSITION] == like[Role.POSITION]
    frozen = like[Role.ATTENTION] + like[Role.FEEDFORWARD] + like[Role.EMBEDDING]
    assert abs(counts[Role.OTHER] - frozen) / frozen < 1e-3


@pytest.mark.parametrize("like", ["none", "lstm"])
def test_lstm_matched_to_something_else_is_refused(like: str) -> None:
    with pytest.raises(ConfigError, match=f"{like} is not a transformer"):
        build_backbone(BodyRequest(f"lstm-matched:{like}", "random"))


@pytest.mark.parametrize("name", ["minlm", "gpt3", "lstm-stars", "minilm:gpt2"])
def test_unknown_names_are_answered_with_near_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Unknown backbone '{name}'.*Known: .*gpt2.*org/model"):
        build_backbone(BodyRequest(name))


def test_near_names() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'minilm'"):
        build_backbone(BodyRequest("minlm"))
    assert {"minilm", "gpt2", "gpt2-xl", "t5-small", "lstm", "none"} <= set(BACKBONES)
