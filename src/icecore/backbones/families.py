"""The families of transformers that can be bodies: one row of the table FAMILIES for each architecture.

A row says where a model of the library has its parts, and how its blocks are called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from icecore.backbones.backbone import Role
from icecore.backbones.modules import attention
from icecore.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from icecore.backbones.huggingface import HuggingFaceBackbone

Call = Callable[["HuggingFaceBackbone", Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Family:
    """How one architecture is adapted and called.

    model        class name in transformers
    layers       name of the configuration field that holds the depth
    roles        role of the parameters inside a module, by class name; the nearest ancestor decides
    call         runs the body on (N, T, D) and a bool mask (N, T) or None
    remove       modules that read tokens or pixels, which are dropped
    positions    name of the absolute position table and its first usable row
    last_step    submodule of a block that takes (attention's output, residual) and after which positions no longer
                 interact, so that in the last block it needs the positions that are read only
    pre_norm     the same for blocks that add the residual themselves: names of their first norm and of the attention
                 module
    arguments    further arguments of the model's forward pass
    max_length   the longest sequence, None without a limit
    unsupported  why a configuration of this family cannot be a body, or None
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
    pre_norm: tuple[str, str] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    max_length: Callable[[Any], int | None] = lambda config: config.max_position_embeddings
    unsupported: Callable[[Any], str | None] = lambda config: None

    def is_causal(self, config: Any) -> bool:
        """Whether positions see only earlier ones. Some models of causal families are configured to see all."""
        return self.causal and not getattr(config, "use_bidirectional_attention", False)

    @property
    def attention(self) -> str:
        """Name of the attention implementation, as transformers takes it."""
        return "eager" if self.own_attention else attention.NAME


def blocks_of(model: nn.Module, layers: int) -> nn.ModuleList:
    """The blocks of a model: its outermost list of `layers` modules."""
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers)


def _standard_call(body: "HuggingFaceBackbone", x: Tensor, mask: Tensor | None) -> Tensor:
    attention_mask = None if mask is None else mask.long()
    return body.model(inputs_embeds=x, attention_mask=attention_mask, **body.family.arguments)[0]


def _bert_call(body: "HuggingFaceBackbone", x: Tensor, mask: Tensor | None) -> Tensor:
    # explicit ids, because the model's own buffers end at the length of its table, which icecore may exceed
    ids = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
    attention_mask = None if mask is None else mask.long()
    return body.model(inputs_embeds=x, attention_mask=attention_mask, position_ids=ids[:1], token_type_ids=ids)[0]


def _zero_positions_call(body: "HuggingFaceBackbone", x: Tensor, mask: Tensor | None) -> Tensor:
    # explicit ids, as for BERT, for models without token types
    ids = torch.zeros(1, x.shape[1], dtype=torch.long, device=x.device)
    attention_mask = None if mask is None else mask.long()
    return body.model(inputs_embeds=x, attention_mask=attention_mask, position_ids=ids)[0]


def _longformer_call(body: "HuggingFaceBackbone", x: Tensor, mask: Tensor | None) -> Tensor:
    # padded here, because the model would pad with the embedding of its padding token, which was removed
    N, T, _ = x.shape
    window = max(body.config.attention_window)
    pad = -T % window
    mask = torch.ones(N, T, dtype=torch.bool, device=x.device) if mask is None else mask
    x = nn.functional.pad(x, (0, 0, 0, pad))
    ids = torch.zeros(N, T + pad, dtype=torch.long, device=x.device)
    attention_mask = nn.functional.pad(mask.long(), (0, pad))
    out = body.model(inputs_embeds=x, attention_mask=attention_mask, position_ids=ids, token_type_ids=ids)[0]
    return out[:, :T]


def _vit_call(body: "HuggingFaceBackbone", x: Tensor, mask: Tensor | None) -> Tensor:
    # the encoder's blocks and final norm; patches, class token and pooler are not part of the body
    wide = None if mask is None else mask[:, None, None, :].expand(-1, 1, x.shape[1], -1)
    return body.model.get_submodule("layernorm")(_run_blocks(body, x, wide))


def _gpt2_call(body: "HuggingFaceBackbone", x: Tensor, mask: Tensor | None) -> Tensor:
    # without the model's own forward, which requires as many positions out as in
    T = x.shape[1]
    wide = None
    if mask is not None:
        wide = mask[:, None, None, :] & torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
    x = body.model.get_submodule("drop")(x)
    return body.model.get_submodule("ln_f")(_run_blocks(body, x, wide))


def _run_blocks(body: "HuggingFaceBackbone", x: Tensor, mask: Tensor | None) -> Tensor:
    """x (N, T, D) through the blocks in turn; mask (N, 1, T, T) bool, True attends."""
    for block in blocks_of(body.model, body.info.layers):
        out = block(x, attention_mask=mask)
        x = out[0] if isinstance(out, tuple) else out
    return x


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


def _llama_like(prefix: str, **changes: Any) -> Family:
    settings: dict[str, Any] = {
        "model": f"{prefix}Model",
        "layers": "num_hidden_layers",
        "roles": {f"{prefix}Attention": Role.ATTENTION, f"{prefix}MLP": Role.FEEDFORWARD},
        "call": _standard_call,
        "remove": ("embed_tokens",),
        "causal": True,
        "pre_norm": ("input_layernorm", "self_attn"),
        "arguments": {"use_cache": False},
    }
    return Family(**settings | changes)


def _vit_like(prefix: str, *parts: str, **changes: Any) -> Family:
    """`parts` are the ends of the class names of feed-forward modules."""
    settings: dict[str, Any] = {
        "model": f"{prefix}Model",
        "layers": "num_hidden_layers",
        "roles": {f"{prefix}Attention": Role.ATTENTION} | {prefix + part: Role.FEEDFORWARD for part in parts},
        "call": _vit_call,
        "remove": ("embeddings", "pooler"),
        "positions": "embeddings.position_embeddings",
        # the class token has the first row
        "first_position": lambda config: 1,
        "max_length": lambda config: (config.image_size // config.patch_size) ** 2,
        "pre_norm": ("layernorm_before", "attention"),
    }
    return Family(**settings | changes)


def _after_padding(config: Any) -> int:
    return config.pad_token_id + 1


def _narrow_embeddings(field_name: str) -> Callable[[Any], str | None]:
    """Refuses configurations whose token embeddings are narrower than the body, because positions are as narrow."""

    def reason(config: Any) -> str | None:
        width = getattr(config, field_name)
        if width == config.hidden_size:
            return None
        return f"its embeddings have {width} numbers and its layers {config.hidden_size}"

    return reason


def _opt_unsupported(config: Any) -> str | None:
    if not config.do_layer_norm_before:
        return "its norms follow attention (do_layer_norm_before is false)"
    return _narrow_embeddings("word_embed_proj_dim")(config)


def _esm_unsupported(config: Any) -> str | None:
    if getattr(config, "position_embedding_type", "absolute") != "rotary":
        return "its positions are not rotary (ESM-1)"
    return "its embeddings have a norm (emb_layer_norm_before is true)" if config.emb_layer_norm_before else None


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(
        model="GPT2Model",
        layers="n_layer",
        roles={"GPT2Attention": Role.ATTENTION, "GPT2MLP": Role.FEEDFORWARD},
        call=_gpt2_call,
        remove=("wte",),
        positions="wpe",
        causal=True,
        pre_norm=("ln_1", "attn"),
    ),
    "bert": _bert_like("Bert", last_step="attention.output"),
    # rows up to the padding index are for padding and never used for tokens
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
    "electra": _bert_like("Electra", last_step="attention.output", unsupported=_narrow_embeddings("embedding_size")),
    "distilbert": Family(
        model="DistilBertModel",
        layers="n_layers",
        roles={"DistilBertSelfAttention": Role.ATTENTION, "FFN": Role.FEEDFORWARD, "Embeddings": Role.EMBEDDING},
        call=_zero_positions_call,
        remove=("embeddings.word_embeddings",),
        positions="embeddings.position_embeddings",
        last_step="sa_layer_norm",
    ),
    # one table of relative positions enters the scores of all layers: it is part of attention
    "mpnet": Family(
        model="MPNetModel",
        layers="num_hidden_layers",
        roles={"MPNetAttention": Role.ATTENTION, "Embedding": Role.ATTENTION}
        | {"MPNetIntermediate": Role.FEEDFORWARD, "MPNetOutput": Role.FEEDFORWARD},
        call=_zero_positions_call,
        remove=("embeddings.word_embeddings", "pooler"),
        positions="embeddings.position_embeddings",
        first_position=_after_padding,
        own_attention=True,
        last_step="attention.LayerNorm",
        max_length=lambda c: c.max_position_embeddings - _after_padding(c),
    ),
    "modernbert": Family(
        model="ModernBertModel",
        layers="num_hidden_layers",
        roles={"ModernBertAttention": Role.ATTENTION, "ModernBertMLP": Role.FEEDFORWARD},
        call=_standard_call,
        remove=("embeddings.tok_embeddings",),
        pre_norm=("attn_norm", "attn"),
    ),
    # ESM-2, a BERT of protein sequences with rotary positions
    "esm": Family(
        model="EsmModel",
        layers="num_hidden_layers",
        roles={"EsmAttention": Role.ATTENTION, "EsmIntermediate": Role.FEEDFORWARD, "EsmOutput": Role.FEEDFORWARD},
        call=_standard_call,
        remove=("embeddings", "pooler", "contact_head"),
        pre_norm=("attention.LayerNorm", "attention.self"),
        unsupported=_esm_unsupported,
    ),
    "vit": _vit_like("ViT", "MLP", "Intermediate", "Output"),
    "deit": _vit_like("DeiT", "MLP", first_position=lambda config: 2),  # class token and distillation token
    "dinov2": _vit_like(
        "Dinov2",
        roles={"Dinov2Attention": Role.ATTENTION, "Dinov2LayerScale": Role.OTHER}
        | {"Dinov2MLP": Role.FEEDFORWARD, "Dinov2SwiGLUFFN": Role.FEEDFORWARD},
        remove=("embeddings",),
        pre_norm=("norm1", "attention"),
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
        pre_norm=("layer.0.layer_norm", "layer.0.SelfAttention"),
    ),
    "llama": _llama_like("Llama"),
    "mistral": _llama_like("Mistral"),
    "qwen2": _llama_like("Qwen2"),
    "qwen3": _llama_like("Qwen3"),
    "gemma3_text": _llama_like("Gemma3", model="Gemma3TextModel"),
    "gpt_neox": _llama_like("GPTNeoX", remove=("embed_in",), pre_norm=("input_layernorm", "attention")),
    # its dropout on the residual is a function and not a module, so only that on attention weights is icecore's
    "opt": Family(
        model="OPTModel",
        layers="num_hidden_layers",
        roles={"OPTAttention": Role.ATTENTION, "OPTDecoderLayer": Role.FEEDFORWARD},
        call=_standard_call,
        remove=("decoder.embed_tokens",),
        positions="decoder.embed_positions",
        first_position=lambda config: 2,
        causal=True,
        pre_norm=("self_attn_layer_norm", "self_attn"),
        arguments={"use_cache": False},
        unsupported=_opt_unsupported,
    ),
}


#: types that users may expect to find, and why they are not among the families
UNSUPPORTED: Mapping[str, str] = {
    "albert": "all of their layers share the weights and norms of one, and icecore trains the norms of each layer"
}


def family_of(config: Any) -> Family:
    """The family of a transformers configuration.

    Raises ConfigError that names the supported families, or the reason why this model of a family is not supported.
    """
    if config.model_type in UNSUPPORTED:
        raise ConfigError(
            f"{config.model_type} models cannot be bodies, because {UNSUPPORTED[config.model_type]}. "
            "Choose another model."
        )
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise unknown_name("model type", config.model_type, FAMILIES)
    reason = family.unsupported(config)
    if reason is None and not family.causal and getattr(config, "is_decoder", False):
        reason = "it is configured as a decoder (is_decoder is true)"
    if reason is not None:
        raise ConfigError(f"This {config.model_type} model cannot be a body, because {reason}. Choose another model.")
    return family


def model_class(family: Family) -> Any:
    """The transformers class of `family`."""
    import transformers

    return getattr(transformers, family.model)
