"""Attention as icecore computes it in every body that has Hugging Face's attention interface.

One function serves all: causal or not, masks, relative bias, grouped keys, run-axis dropout, recording.
Short sequences use plain batched products, whose backward on CPU is several times faster than SDPA's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.fast import RunAxis, RunDropout

NAME = "icecore"
# Above this many scores a head the T x T matrix costs more memory traffic than SDPA's tiling saves.
EAGER_SCORES = 512 * 512


def register() -> None:
    """Make `attn_implementation="icecore"` known to transformers. Safe to call again."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """softmax(query key^T * scaling + bias) value, by Hugging Face's attention interface.

    query (N, H, T, d), key and value (N, H_kv, T, d) with H a multiple of H_kv;
    attention_mask (N or 1, 1, T, T) bool (True attends) or additive; returns (N, T, H, d).
    """
    dropout: RunDropout = module.icecore_dropout  # type: ignore[assignment]
    axis = dropout.axis
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    T = query.shape[2]
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    causal = is_causal and attention_mask is None and T > 1
    dropping = axis.row_keys is not None and axis.dropout > 0
    small = T * key.shape[2] <= EAGER_SCORES and query.device.type == "cpu"
    if axis.record is not None or dropping or small:
        return _explicit(dropout, query, key, value, _bias(query, attention_mask, position_bias, causal), scale), None
    mask = attention_mask
    if position_bias is not None:
        mask, causal = _bias(query, attention_mask, position_bias, causal), False
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, is_causal=causal)
    return out.transpose(1, 2), None


def _bias(query: Tensor, mask: Tensor | None, position_bias: Tensor | None, causal: bool) -> Tensor | None:
    """Everything that is added to the scores, as one tensor broadcastable to (N, H, T, T), or None."""
    T = query.shape[2]
    lowest = torch.finfo(query.dtype).min
    bias = position_bias
    if causal:
        mask = torch.ones(T, T, dtype=torch.bool, device=query.device).tril()[None, None]
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, lowest)
        bias = mask if bias is None else bias + mask
    return bias


def _explicit(
    dropout: RunDropout, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """Attention with the score matrix in memory. Returns (N, T, H, d)."""
    scores = torch.matmul(query * scale, key.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1)
    if dropout.axis.record is not None:
        dropout.axis.record.append(weights.detach().float())
    return torch.matmul(dropout(weights), value).transpose(1, 2)


def attach(body: nn.Module, axis: RunAxis, first_salt: int) -> int:
    """Give every attention module of `body` that uses the interface its dropout. Returns how many there are."""
    sites = [m for m in body.modules() if hasattr(m, "is_causal") and list(m.children())]
    for number, module in enumerate(sites):
        # not a submodule: it must not show up in the body's state or module tree
        object.__setattr__(module, "icecore_dropout", RunDropout(first_salt + number, axis))
    return len(sites)
