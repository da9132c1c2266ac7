"""Operations on whole batches of images: patches, warping, grey values, shrinking and statistics.

Images are (N, H, W, C): N images of H rows and W columns with C colour channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

#: images that are converted at a time, because converting a whole split at once takes several times its memory
CHUNK = 2048


def to_patches(images: Tensor, size: int) -> Tensor:
    """Images (N, H, W, C) to square patches (N, T, P), T = H W / size², P = size² C.

    Patches go row by row through the image. The numbers of a patch go by row, column, channel.
    """
    N, H, W, C = images.shape
    grid = images.reshape(N, H // size, size, W // size, size, C)
    return grid.transpose(2, 3).reshape(N, -1, size * size * C)


def warp(images: Tensor, shift: Tensor, flip: Tensor, angle: Tensor) -> Tensor:
    """Shift each image, then mirror it left to right if `flip`, then rotate it, in one bilinear resampling.

    images (N, S, S, C), shift (N, 2) pixels down and right, flip (N,) bool, angle (N,) radians counter-clockwise.
    Returns (N, S, S, C) float. Pixels from outside the image are zero.
    """
    N, S, _, C = images.shape
    cos, sin = angle.cos(), angle.sin()
    mirror = torch.where(flip, -1.0, 1.0)
    down, right = (shift * (2 / S)).unbind(1)
    # The source of each output pixel (x right, y down, both in [-1, 1]): the changes are undone, the last one first.
    source = torch.stack([mirror * cos, -mirror * sin, -right, sin, cos, -down], 1).view(N, 2, 3)
    grid = F.affine_grid(source, [N, C, S, S], align_corners=False)
    planes = images.permute(0, 3, 1, 2).float()
    return F.grid_sample(planes, grid, padding_mode="zeros", align_corners=False).permute(0, 2, 3, 1)


def to_grey(images: Tensor) -> Tensor:
    """ITU-R 601 luma, rounded: (N, H, W, 3) uint8 to (N, H, W, 1) uint8."""
    weights = torch.tensor([299, 587, 114], dtype=torch.int32)
    # Integers, in thousandths, give the same result on every device.
    parts = [((part * weights).sum(-1, keepdim=True) + 500) // 1000 for part in images.split(CHUNK)]
    return torch.cat([part.to(torch.uint8) for part in parts])


def shrink(images: Tensor, side: int) -> Tensor:
    """Images (N, S, S, C) uint8, averaged over squares and rounded: (N, side, side, C) uint8. `side` must divide S."""
    _, S, _, C = images.shape
    area = (S // side) ** 2
    sums = [part.view(len(part), side, S // side, side, S // side, C).sum((2, 4)) for part in images.split(CHUNK)]
    return torch.cat([((part + area // 2) // area).to(torch.uint8) for part in sums])


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) and standard deviation (C,) of images (N, H, W, C) uint8, float32 in grey levels from 0 to 255."""
    # Histograms give exact sums of integers in one pass over the bytes.
    histograms = [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(-1)]
    share = torch.stack(histograms).double() / histograms[0].sum()
    level = torch.arange(256, dtype=torch.float64)
    mean = share @ level
    variance = (share * (level - mean[:, None]).square()).sum(1)
    return mean.float(), variance.sqrt().float()
