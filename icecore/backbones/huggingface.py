"""Hugging Face transformers as bodies: one row of the table FAMILIES for each architecture.

The library's own blocks run unchanged but for three replaced pieces: norms (run axis), dropout (pure
function) and, where the family has the attention interface, attention. Token embeddings are dropped.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from icecore.backbones import attention
from icecore.backbones.backbone import Backbone, BackboneInfo, Role, gather
from icecore.backbones.fast import NormKind, RunAxis, RunDropout, RunNorm
from icecore.errors import WeightsError, unknown

Call = Callable[["HuggingFaceBackbone", Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Family:
    """How one architecture is taken apart and called.

    model      class name in transformers
    layers     name of the configuration field that holds the depth
    roles      class name of a module -> role of the parameters inside it; the nearest ancestor decides
    call       runs the body on (N, T, D) and a bool mask (N, T) or None
    remove     modules that read tokens or pixels and are dropped
    positions  name of the absolute position table and its first usable row
    last_step  submodule of a block that takes (attention's output, residual) and after which positions do not
               meet again: in the last block it needs the read-out positions only
    """

    model: str
    layers: str
    roles: Mapping[str, Role]
    call: Call
    remove: tuple[str, ...]
    positions: str | None = None
    first_position: Callable[[Any], int] = lambda config: 0
    causal: bool = False
    own_attention: bool = False
    last_step: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    max_length: Callable[[Any], int | None] = lambda config: config.max_position_embeddings

    @property
    def attention(self) -> str:
        """Name of the attention implementation, as transformers takes it."""
        return "eager" if self.own_attention else attention.NAME


class NoTable(nn.Module):
    """Stands where a position table was: positions are added outside the body, so this adds zero."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """A zero that broadcasts to every shape and keeps every dtype."""
        return self.zero  # type: ignore[return-value]


class HuggingFaceBackbone(Backbone):
    """A transformers model of a supported family as a frozen body."""

    def __init__(self, info: BackboneInfo, model: nn.Module, family: Family) -> None:
        super().__init__(info)
        self.family = family
        self.config: Any = model.config
        if family.positions is not None:
            self.position_table = _take_positions(model, family)
        for name in family.remove:
            parent, child = _parent(model, name)
            setattr(parent, child, None)
        _replace_norms(model, self.axis)
        salt = _replace_dropouts(model, self.axis)
        if not family.own_attention and attention.attach(model, self.axis, salt) < info.layers:
            raise TypeError(f"{info.name}: fewer attention modules than its {info.layers} layers")
        self.model = model.eval().requires_grad_(False)
        self._positions: Tensor | None = None
        if family.last_step is not None:
            last = _blocks(model, info.layers)[-1].get_submodule(family.last_step)
            last.register_forward_pre_hook(self._keep_read)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.family.call(self, x, mask)

    def read(self, x: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        if self.family.last_step is None:
            return super().read(x, mask, positions)
        self._positions = positions
        try:
            return self(x, mask)
        finally:
            self._positions = None

    def _keep_read(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """In the last block, go on with the read-out positions only."""
        return None if self._positions is None else tuple(gather(x, self._positions) for x in inputs)

    def role_of(self, name: str, module: nn.Module, path: Iterable[nn.Module]) -> Role | None:
        for ancestor in (module, *reversed(list(path))):
            role = self.family.roles.get(type(ancestor).__name__)
            if role is not None:
                return role
        return None


def _standard_call(body: HuggingFaceBackbone, x: Tensor, mask: Tensor | None) -> Tensor:
    attention_mask = None if mask is None else mask.long()
    return body.model(inputs_embeds=x, attention_mask=attention_mask, **body.family.arguments)[0]


def _bert_call(body: HuggingFaceBackbone, x: Tensor, mask: Tensor | None) -> Tensor:
    # explicit ids: the model's own buffers end at its table's length, which icecore may exceed
    ids = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
    attention_mask = None if mask is None else mask.long()
    return body.model(inputs_embeds=x, attention_mask=attention_mask, position_ids=ids[:1], token_type_ids=ids)[0]


def _longformer_call(body: HuggingFaceBackbone, x: Tensor, mask: Tensor | None) -> Tensor:
    # padded here: the model would pad with the embedding of its padding token, which is gone
    N, T, _ = x.shape
    window = max(body.config.attention_window)
    pad = -T % window
    mask = torch.ones(N, T, dtype=torch.bool, device=x.device) if mask is None else mask
    x = nn.functional.pad(x, (0, 0, 0, pad))
    ids = torch.zeros(N, T + pad, dtype=torch.long, device=x.device)
    attention_mask = nn.functional.pad(mask.long(), (0, pad))
    out = body.model(inputs_embeds=x, attention_mask=attention_mask, position_ids=ids, token_type_ids=ids)[0]
    return out[:, :T]


def _vit_call(body: HuggingFaceBackbone, x: Tensor, mask: Tensor | None) -> Tensor:
    # the encoder's blocks and final norm; patches, class token and pooler are not part of the body
    wide = None if mask is None else mask[:, None, None, :].expand(-1, 1, x.shape[1], -1)
    for block in _blocks(body.model, body.info.layers):
        out = block(x, wide)
        x = out[0] if isinstance(out, tuple) else out
    return body.model.get_submodule("layernorm")(x)


def _blocks(model: nn.Module, layers: int) -> nn.ModuleList:
    """The outermost list of `layers` modules."""
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers)


_BERT_ROLES = {
    "Attention": Role.ATTENTION,
    "Intermediate": Role.FEEDFORWARD,
    "Output": Role.FEEDFORWARD,
    "Embeddings": Role.EMBEDDING,
}


def _bert_like(prefix: str, **changes: Any) -> Family:
    settings: dict[str, Any] = {
        "model": f"{prefix}Model",
        "layers": "num_hidden_layers",
        "roles": {prefix + part: role for part, role in _BERT_ROLES.items()},
        "call": _bert_call,
        "remove": ("embeddings.word_embeddings", "pooler"),
        "positions": "embeddings.position_embeddings",
    }
    return Family(**settings | changes)


def _llama_like(prefix: str) -> Family:
    return Family(
        model=f"{prefix}Model",
        layers="num_hidden_layers",
        roles={f"{prefix}Attention": Role.ATTENTION, f"{prefix}MLP": Role.FEEDFORWARD},
        call=_standard_call,
        remove=("embed_tokens",),
        causal=True,
        arguments={"use_cache": False},
    )


def _after_padding(config: Any) -> int:
    return config.pad_token_id + 1


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(
        model="GPT2Model",
        layers="n_layer",
        roles={"GPT2Attention": Role.ATTENTION, "GPT2MLP": Role.FEEDFORWARD},
        call=_standard_call,
        remove=("wte",),
        positions="wpe",
        causal=True,
        arguments={"use_cache": False},
    ),
    "bert": _bert_like("Bert", last_step="attention.output"),
    # rows up to the padding index belong to padding and are never used for tokens
    "roberta": _bert_like(
        "Roberta",
        last_step="attention.output",
        first_position=_after_padding,
        max_length=lambda c: c.max_position_embeddings - _after_padding(c),
    ),
    "longformer": _bert_like(
        "Longformer",
        call=_longformer_call,
        own_attention=True,
        first_position=_after_padding,
        max_length=lambda c: c.max_position_embeddings - _after_padding(c),
    ),
    "vit": Family(
        model="ViTModel",
        layers="num_hidden_layers",
        roles={"ViTAttention": Role.ATTENTION, "ViTMLP": Role.FEEDFORWARD}
        | {"ViTIntermediate": Role.FEEDFORWARD, "ViTOutput": Role.FEEDFORWARD},
        call=_vit_call,
        remove=("embeddings", "pooler"),
        positions="embeddings.position_embeddings",
        first_position=lambda config: 1,
        max_length=lambda c: (c.image_size // c.patch_size) ** 2,
    ),
    # relative positions enter T5's attention scores: they are part of its attention
    "t5": Family(
        model="T5EncoderModel",
        layers="num_layers",
        roles={"T5Attention": Role.ATTENTION, "T5DenseActDense": Role.FEEDFORWARD}
        | {"T5DenseGatedActDense": Role.FEEDFORWARD},
        call=_standard_call,
        remove=("shared", "encoder.embed_tokens"),
        max_length=lambda config: None,
    ),
    "llama": _llama_like("Llama"),
    "mistral": _llama_like("Mistral"),
    "qwen2": _llama_like("Qwen2"),
    "qwen3": _llama_like("Qwen3"),
}


def family_of(config: Any) -> Family:
    """The family of a transformers configuration. Raises ConfigError naming the supported ones."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise unknown("model type", config.model_type, FAMILIES)
    return family


def model_class(family: Family) -> Any:
    """The transformers class of `family`."""
    import transformers

    return getattr(transformers, family.model)


def describe(config: Any, name: str, weights: str, source: str) -> BackboneInfo:
    """Sizes of the body that `config` describes."""
    family = family_of(config)
    return BackboneInfo(
        name=name,
        family=config.model_type,
        width=config.hidden_size,
        layers=getattr(config, family.layers),
        heads=config.num_attention_heads,
        max_length=family.max_length(config),
        causal=family.causal,
        weights=weights,
        source=source,
    )


def prepare_config(config: Any, layers: int | None) -> Any:
    """`config` cut to the first `layers` layers (None: all). Raises WeightsError where there are fewer."""
    family = family_of(config)
    depth = getattr(config, family.layers)
    if layers is not None:
        if not 1 <= layers <= depth:
            raise WeightsError(f"--layers {layers}: this body has {depth} layers; ask for 1 to {depth}")
        setattr(config, family.layers, layers)
        if isinstance(windows := getattr(config, "attention_window", None), list):
            config.attention_window = windows[:layers]
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:layers]
    return config


def build(config: Any, name: str, weights: str, source: str, model: nn.Module) -> HuggingFaceBackbone:
    """The body around a loaded or freshly made transformers `model`."""
    return HuggingFaceBackbone(describe(config, name, weights, source), model, family_of(config))


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, child = name.rpartition(".")
    return model.get_submodule(path), child


def _take_positions(model: nn.Module, family: Family) -> Tensor:
    """Remove the absolute position table from `model` and return its usable rows (P, D) in fp32."""
    assert family.positions is not None
    parent, child = _parent(model, family.positions)
    held = getattr(parent, child)
    table = held.weight if isinstance(held, nn.Embedding) else held[0]
    delattr(parent, child)
    setattr(parent, child, NoTable())
    return table.detach()[family.first_position(model.config) :].float().clone()


def norm_kind(module: nn.Module) -> NormKind | None:
    """What norm `module` is, found by structure (one vector of gains, perhaps one of biases) and by trial.

    The trial compares it with the layer norm and RMS norm formulas on random numbers, so a norm of
    another kind (say with gains of 1 + w) is not mistaken for one of these.
    """
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    vector = shapes.get("weight")
    if not shapes or list(module.children()) or vector is None or len(vector) != 1:
        return None
    if set(shapes) - {"weight", "bias"} or shapes.get("bias", vector) != vector:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, vector[0], generator=generator)
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    eps = norm_eps(module)
    with torch.no_grad():
        try:
            found = module.float()(x)
        except Exception:
            return None
        if torch.allclose(found, nn.functional.layer_norm(x, vector, weight, bias, eps), atol=1e-4):
            return "layer"
        if bias is None and torch.allclose(found, nn.functional.rms_norm(x, vector, weight, eps), atol=1e-4):
            return "rms"
    return None


def norm_eps(module: nn.Module) -> float:
    """The epsilon of a norm, under either of the names in use."""
    return float(getattr(module, "eps", None) or getattr(module, "variance_epsilon", 1e-5))


def _replace_norms(model: nn.Module, axis: RunAxis) -> None:
    for name, module in list(model.named_modules()):
        kind = norm_kind(module)
        if kind is not None:
            parent, child = _parent(model, name)
            bias = getattr(module, "bias", None)
            setattr(parent, child, RunNorm(kind, module.weight, bias, norm_eps(module), axis))  # type: ignore[arg-type]


def _replace_dropouts(model: nn.Module, axis: RunAxis) -> int:
    """Replace every dropout by a run-axis one. Returns how many there are."""
    dropouts = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    for salt, name in enumerate(dropouts):
        parent, child = _parent(model, name)
        setattr(parent, child, RunDropout(salt, axis))
    return len(dropouts)
