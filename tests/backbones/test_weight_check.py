"""Weights with which a body cannot work are refused wherever they are read, by name and with the remedy."""

from pathlib import Path

import pytest
import torch
from torch import nn

from icecore.backbones import BodyRequest, build_backbone
from icecore.backbones.weight_check import check_values, is_finite
from icecore.backbones.weights import save
from icecore.core.errors import WeightsError
from tiny_models import TINY, tiny_body, tiny_model

FAMILIES_WITH_TABLE = ["gpt2", "bert", "vit"]


def last_norm(model: nn.Module) -> str:
    """The name of the gains of a model's last norm."""
    vectors = [name for name, p in model.named_parameters() if p.ndim == 1 and name.endswith("weight")]
    return vectors[-1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("case", TINY)
def test_values_that_are_not_finite_are_refused(case: str, value: float, tmp_path: Path) -> None:
    model = tiny_model(case)
    # the first matrices are embeddings, which are dropped
    dropped = ("pooler", "contact_head")
    name = [name for name, p in model.named_parameters() if p.ndim == 2 and not name.startswith(dropped)][-1]
    model.get_parameter(name).data.flatten()[3] = value
    model.save_pretrained(tmp_path / "body")
    with pytest.raises(WeightsError, match=rf"body: tensor model\.{name} has 1 value of .* that are not finite"):
        build_backbone(BodyRequest(str(tmp_path / "body")))


@pytest.mark.parametrize("case", TINY)
def test_norms_without_gains_are_refused(case: str, tmp_path: Path) -> None:
    model = tiny_model(case)
    name = last_norm(model)
    # this family stores gains less 1
    model.get_parameter(name).data.fill_(-1 if case == "gemma3_text" else 0)
    model.save_pretrained(tmp_path / "body")
    expected = rf"body: all gains of the norm model\.{name.removesuffix('.weight')} are zero, .* --weights random"
    with pytest.raises(WeightsError, match=expected):
        build_backbone(BodyRequest(str(tmp_path / "body")))
    with pytest.raises(WeightsError, match=expected):
        build_backbone(BodyRequest(str(tmp_path / "body"), "statistics"))
    assert build_backbone(BodyRequest(str(tmp_path / "body"), "random")).info.weights == "random"


@pytest.mark.parametrize(("value", "case"), [(torch.nan, "llama"), (torch.inf, "bert"), (torch.nan, "dinov2")])
def test_embeddings_that_are_not_finite_are_refused(value: float, case: str, tmp_path: Path) -> None:
    """They are not part of a body, but positions and prefixes start from them."""
    model = tiny_model(case, **({} if case == "dinov2" else {"vocab_size": 64}))
    names = [
        name
        for name, _ in model.named_parameters()
        if name.endswith(("cls_token", "embed_tokens.weight", "word_embeddings.weight"))
    ]
    model.get_parameter(names[0]).data.flatten()[3] = value
    model.save_pretrained(tmp_path / "body")
    words = "embedding of the first token" if case == "dinov2" else "token embeddings"
    with pytest.raises(WeightsError, match=f"body: the {words}, from which .* not finite .* Get the weights again"):
        build_backbone(BodyRequest(str(tmp_path / "body")))
    assert build_backbone(BodyRequest(str(tmp_path / "body"), "random")).info.weights == "random"


def test_gains_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """They are no norm by any formula, and still they are found."""
    model = tiny_model("llama")
    model.get_parameter(last_norm(model)).data[:] = torch.nan
    model.save_pretrained(tmp_path / "body")
    with pytest.raises(WeightsError, match=r"tensor model\.norm\.weight has 32 values of 32 that are not finite"):
        build_backbone(BodyRequest(str(tmp_path / "body")))


@pytest.mark.parametrize("case", FAMILIES_WITH_TABLE)
def test_the_position_table_is_checked(case: str) -> None:
    body = tiny_body(case)
    assert body.position_table is not None
    body.position_table[1, 2] = torch.nan
    with pytest.raises(WeightsError, match="hub: tensor positions has 1 value"):
        check_values(body, "hub")


def test_a_weights_file_is_checked(tmp_path: Path) -> None:
    good, folder = tiny_model("bert"), tmp_path / "body"
    good.save_pretrained(folder)
    body = build_backbone(BodyRequest(str(folder)))
    next(iter(body.norms().values())).weight.data.zero_()
    save(body, tmp_path / "zero.safetensors")
    with pytest.raises(WeightsError, match=r"zero.safetensors: all gains of the norm model\.embeddings\.LayerNorm are"):
        build_backbone(BodyRequest(str(folder), str(tmp_path / "zero.safetensors")))


def test_single_gains_may_be_zero() -> None:
    body = tiny_body("bert")
    next(iter(body.norms().values())).weight.data[1:] = 0
    check_values(body, "body")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_tensors(dtype: torch.dtype) -> None:
    for value, expected in ((3e38, True), (torch.nan, False), (torch.inf, False), (-torch.inf, False)):
        tensor = torch.zeros(1000, dtype=dtype)
        tensor[617] = value
        assert is_finite(tensor) == expected
