"""Tiny random models of every family, as the library makes them and as bodies."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from icecore.backbones import families, huggingface
from icecore.backbones.families import FAMILIES
from icecore.backbones.huggingface import HuggingFaceBackbone
from icecore.backbones.modules import attention

#: width of all models, and rows of their position tables
D, TABLE = 32, 24
SHAPE = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 7}
GROUPED = SHAPE | {"num_key_value_heads": 2, "max_position_embeddings": 8, "pad_token_id": None}
T5 = {"d_model": D, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8, "vocab_size": 7}
#: without special tokens, which would lie beyond so small a vocabulary
MODERNBERT = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
MODERNBERT |= {"local_attention": 8, "global_attn_every_n_layers": 2}
NEOX = SHAPE | {"max_position_embeddings": 8}
VISION = {k: v for k, v in SHAPE.items() if k != "vocab_size"} | {"image_size": 20, "patch_size": 4}
ESM = SHAPE | {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 2, "token_dropout": True}
OPT = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "vocab_size": 7}
DISTILBERT = {"dim": D, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 7}
GPT2 = {"n_embd": D, "n_layer": 2, "n_head": 4, "n_positions": TABLE, "vocab_size": 7}

#: case -> (model type, sizes); every row of FAMILIES is here, and the variants that take other paths
TINY: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2 | {"bos_token_id": 0, "eos_token_id": 0}),
    "bert": ("bert", SHAPE | {"max_position_embeddings": TABLE}),
    "roberta": ("roberta", SHAPE | {"max_position_embeddings": TABLE + 2}),
    "longformer": ("longformer", SHAPE | {"max_position_embeddings": TABLE + 2, "attention_window": [8, 4]}),
    "electra": ("electra", SHAPE | {"embedding_size": D, "max_position_embeddings": TABLE}),
    "distilbert": ("distilbert", DISTILBERT | {"max_position_embeddings": TABLE}),
    "mpnet": ("mpnet", SHAPE | {"max_position_embeddings": TABLE + 2}),
    "modernbert": ("modernbert", SHAPE | MODERNBERT),
    "esm": ("esm", ESM),
    "vit": ("vit", VISION),
    "deit": ("deit", VISION),
    "dinov2": ("dinov2", VISION | {"mlp_ratio": 2}),
    "dinov2-swiglu": ("dinov2", VISION | {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "t5": ("t5", T5),
    "t5-gated": ("t5", T5 | {"feed_forward_proj": "gated-gelu"}),
    "llama": ("llama", GROUPED),
    "mistral": ("mistral", GROUPED),
    "mistral-window": ("mistral", GROUPED | {"sliding_window": 4}),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 12}),
    "gemma3_text": ("gemma3_text", GROUPED | {"head_dim": 12, "sliding_window": 4}),
    "gpt_neox": ("gpt_neox", NEOX),
    "gpt_neox-serial": ("gpt_neox", NEOX | {"use_parallel_residual": False}),
    "opt": ("opt", OPT | {"word_embed_proj_dim": D, "max_position_embeddings": TABLE}),
}


def tiny_config(case: str, **changes: Any) -> Any:
    model_type, sizes = TINY[case]
    return AutoConfig.for_model(model_type, **sizes | changes)


def tiny_model(case: str, **changes: Any) -> Any:
    """A transformers model with eager attention in which no bias is zero and no gain is one."""
    config = tiny_config(case, **changes)
    config._attn_implementation = "eager"
    model = families.model_class(FAMILIES[config.model_type])(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


def tiny_body(case: str, reference: nn.Module | None = None) -> HuggingFaceBackbone:
    """The body of `case` with the weights of `reference`."""
    attention.register()
    config = tiny_config(case)
    family = FAMILIES[config.model_type]
    config._attn_implementation = "eager" if family.own_attention else attention.NAME
    model = families.model_class(family)(config)
    model.load_state_dict((reference or tiny_model(case)).state_dict())
    return huggingface.build(config, case, "random", "test", model)
