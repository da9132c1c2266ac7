"""Attention maps, pooled to a size that can be shown."""

from torch import Tensor
from torch.nn import functional as F


def pool(maps: Tensor, stride: int) -> Tensor:
    """Sums (H, C, C) over squares of `stride` x `stride` positions of (H, T, T); the last squares may be smaller."""
    return F.avg_pool2d(maps, stride, ceil_mode=True, divisor_override=1) if stride > 1 else maps


def normalize_rows(sums: Tensor) -> Tensor:
    """Divide sums (..., C, C) by the sums of their rows, in place, which gives means over queries."""
    return sums.div_(sums.sum(-1, keepdim=True).clamp_(min=1e-9))
