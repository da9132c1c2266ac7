"""Attention in every body that has Hugging Face's attention interface.

One function serves all: causal or not, masks, relative bias, grouped keys, dropout, recording. It uses SDPA except in
bf16 on CPUs, where SDPA's backward has no fast products. There, short sequences use plain batched products, and long
ones use them for blocks of queries, whose scores are computed again in backward.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.modules.body_pass import BodyPass, running_pass
from icecore.backbones.modules.dropout import RunDropout

NAME = "icecore"
# Types for which SDPA's backward on CPU has no fast products (measured on AMX: 38 ms a layer of GPT-2 small at
# 32 x 64 tokens, against 7). In fp32 it is at least as fast as plain products from T = 10 to 256.
PLAIN_TYPES = (torch.bfloat16,)
# Up to this many scores per head the T x T matrix is kept; beyond that, queries are processed in blocks.
EAGER_SCORES = 512 * 512
QUERY_BLOCK = 256


def register() -> None:
    """Make `attn_implementation="icecore"` known to transformers. Safe to call again."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    def mask(*args: Any, **kwargs: Any) -> Tensor | None:
        if kwargs.get("attention_mask") is not None:
            # testing whether a mask is all true would wait for the device; icecore passes no mask in that case
            kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return sdpa_mask(*args, **kwargs)

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)


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
    body_pass = running_pass().value
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    T = query.shape[2]
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    causal = is_causal and attention_mask is None and T > 1
    dropping = body_pass.dropout is not None and body_pass.dropout.rate > 0
    plain = query.device.type == "cpu" and query.dtype in PLAIN_TYPES
    small = T * key.shape[2] <= EAGER_SCORES
    if body_pass.record is not None or dropping or (plain and small):
        return _explicit(
            dropout, body_pass, query, key, value, _bias(query, attention_mask, position_bias, causal), scale
        ), None
    learnt = position_bias is not None and position_bias.requires_grad
    if plain and not learnt:
        bias = _bias(query, attention_mask, position_bias, False)
        out = _BlockAttention.apply(query, key, value, bias, scale, causal)
        assert isinstance(out, Tensor)
        return out.transpose(1, 2), None
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
    dropout: RunDropout,
    body_pass: BodyPass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Attention with the score matrix in memory. Returns (N, T, H, d)."""
    weights = _scores(query, key, bias, scale).softmax(-1)
    if body_pass.record is not None:
        body_pass.record(weights.detach().float())
    return torch.matmul(dropout(weights), value).transpose(1, 2)


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """query key^T * scale + bias in one pass over the scores: (N, H, T, S)."""
    N, H, T, _ = query.shape
    S = key.shape[2]
    if bias is None:
        start = query.new_zeros(())
    elif bias.shape[:2] == (1, 1):
        start = bias[0, 0]
    else:
        start = bias.expand(N, H, T, S).reshape(-1, T, S)
    beta = 0.0 if bias is None else 1.0
    flat = torch.baddbmm(start, query.flatten(0, 1), key.flatten(0, 1).mT, beta=beta, alpha=scale)
    return flat.view(N, H, T, S)


class _BlockAttention(torch.autograd.Function):
    """Attention by blocks of queries. Backward computes each block's weights again, so no (T, T) matrix is kept.

    Arguments as for `attend`, but `bias` holds everything that is added to the scores except the causal mask. The bias
    gets no gradient, since relative positions of a frozen body have none.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, causal: bool
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out = torch.empty_like(query)
        for a, b, end in _blocks(query.shape[2], key.shape[2], causal):
            weights = _block_weights(query, key, bias, scale, causal, (a, b, end))
            out[:, :, a:b] = weights @ value[:, :, :end]
        ctx.save_for_backward(query, key, value, bias)
        ctx.scale, ctx.causal = scale, causal
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, bias = ctx.saved_tensors
        dquery = torch.empty_like(query)
        # sums over blocks stay in fp32
        dkey, dvalue = torch.zeros_like(key, dtype=torch.float32), torch.zeros_like(value, dtype=torch.float32)
        for a, b, end in _blocks(query.shape[2], key.shape[2], ctx.causal):
            weights = _block_weights(query, key, bias, ctx.scale, ctx.causal, (a, b, end))
            part = grad[:, :, a:b]
            dvalue[:, :, :end] += weights.transpose(-1, -2) @ part
            dweights = part @ value[:, :, :end].transpose(-1, -2)
            dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dquery[:, :, a:b] = dscores @ key[:, :, :end]
            dkey[:, :, :end] += dscores.transpose(-1, -2) @ query[:, :, a:b]
        dquery, dkey = dquery * ctx.scale, dkey * ctx.scale
        return dquery, dkey.to(key.dtype), dvalue.to(value.dtype), None, None, None


def _blocks(T: int, keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """(first query, end of queries, end of keys) of each block."""
    ends = [(a, min(a + QUERY_BLOCK, T)) for a in range(0, T, QUERY_BLOCK)]
    return [(a, b, b if causal else keys) for a, b in ends]


def _block_weights(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, causal: bool, block: tuple[int, int, int]
) -> Tensor:
    """Softmax weights (N, H, b - a, end) of one block."""
    a, b, end = block
    if bias is not None:
        bias = bias[:, :, a:b, :end] if bias.shape[2] > 1 else bias[..., :end]
    scores = _scores(query[:, :, a:b], key[:, :, :end], bias, scale)
    if causal:
        future = torch.ones(b - a, b - a, dtype=torch.bool, device=query.device).triu_(1)
        scores[..., a:].masked_fill_(future, torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


def attach(body: nn.Module, first_salt: int) -> int:
    """Give its dropout to every attention module of `body` that uses the interface. Returns how many there are."""
    sites = [m for m in body.modules() if hasattr(m, "is_causal") and list(m.children())]
    for number, module in enumerate(sites):
        # not as a submodule, since it must not appear in the body's state or module tree
        object.__setattr__(module, "icecore_dropout", RunDropout(first_salt + number))
    return len(sites)
