"""MNIST, CIFAR-10 and CIFAR-10 LRA: images as patches or pixels, one a token (paper section 2).

Images stay uint8, whole, on the training device; augmenting, cutting into patches and normalising
happen there for a whole batch at once. image_files.py reads the files.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core.errors import ConfigError
from icecore.tasks.data_files import data_roots
from icecore.tasks.image_files import ImageSet, read_cifar10, read_mnist
from icecore.tasks.task import Examples, StoredTask, TaskDefaults, TaskRequest, TaskSpec, read_options, split_held_out

# `val`: training images held out; by default at most a tenth of a smaller source
MNIST_OPTIONS: Mapping[str, Any] = {"val": 2000}
CIFAR10_OPTIONS: Mapping[str, Any] = {"val": 5000}
# `side`: pixels averaged to side x side; below 32 a shorter, blurred relative of Long Range Arena's task
CIFAR10_LRA_OPTIONS: Mapping[str, Any] = {"val": 5000, "side": 32}
SIDES = (4, 8, 16, 32)

CROP_PADDING = 4
ROTATION = math.radians(20)

#: images converted at a time where a whole split would need several times its memory
CHUNK = 2048


class ImageTask(StoredTask):
    """Classify images (H, W, C) of C colour channels, cut into square patches, one a token.

    Pixels become (pixel - mean) / std; `mean` and `std` (C,) are in grey levels, 0 to 255 (in `data`, in
    units of 255). They are each channel's over the training split where `standardised`, else 0 and 255.
    """

    patch: int = 4
    standardised: bool = True

    def __init__(self, splits: Mapping[str, Examples], data: Mapping[str, Any]) -> None:
        self.mean, self.std = channel_statistics(splits["train"].inputs)
        if not self.standardised:
            self.mean, self.std = torch.zeros_like(self.mean), torch.full_like(self.std, 255)
        units = {name: [round(v / 255, 4) for v in x.tolist()] for name, x in (("mean", self.mean), ("std", self.std))}
        super().__init__(splits, {**data, **units})

    def to(self, device: torch.device) -> "ImageTask":
        """Move the stored images and the statistics to `device` (in place) and return the task."""
        super().to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Images (N, H, W, C), uint8 or augmented floats of the same scale, to patches (N, T, P)."""
        return to_patches((inputs - self.mean) / self.std, self.patch)


class Mnist(ImageTask):
    """MNIST: 28x28 digits in a frame of zeros, 32x32, as 8x8 patches of 4x4 pixels."""

    name = "mnist"
    spec = TaskSpec("continuous", length=64, size=16, outputs=10)
    defaults = TaskDefaults(steps=3200, batch_size=8, lr=2e-3, eval_every=800)
    # empty paper stays exactly zero, so that the position alone speaks there: learns faster than standardised
    standardised = False

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Digits (N, 28, 28, 1) uint8 to patches (N, 64, 16)."""
        # framed before it is scaled: the frame continues the digits' background
        return super().tokens(F.pad(inputs, (0, 0, 2, 2, 2, 2)), lengths)


class Cifar10(ImageTask):
    """CIFAR-10: 8x8 patches of 4x4 RGB pixels; cropped, flipped and rotated in training."""

    name = "cifar10"
    spec = TaskSpec("continuous", length=64, size=48, outputs=10)
    defaults = TaskDefaults(steps=5000, batch_size=16, lr=1e-3, eval_every=500)
    augment_draws = 4

    def augment(self, inputs: Tensor, draws: Tensor) -> Tensor:
        """Crop with padding 4, horizontal flip, rotation by at most 20 degrees, in this order.

        inputs (N, 32, 32, 3) uint8, draws (N, 4) in [0, 1): down, right, flip, angle; a row of 0.5 changes
        nothing. Returns (N, 32, 32, 3) float.
        """
        shift = (draws[:, :2] * (2 * CROP_PADDING + 1)).floor() - CROP_PADDING
        return warp(inputs, shift, draws[:, 2] < 0.5, (2 * draws[:, 3] - 1) * ROTATION)


class Cifar10LRA(ImageTask):
    """CIFAR-10 as in Long Range Arena: grey, one pixel a token, row by row, not augmented."""

    name = "cifar10-lra"
    spec = TaskSpec("continuous", length=1024, size=1, outputs=10)
    defaults = TaskDefaults(steps=3000, batch_size=8, lr=1e-3, eval_every=500)
    patch = 1

    def __init__(self, splits: Mapping[str, Examples], data: Mapping[str, Any]) -> None:
        _, H, W, _ = splits["train"].inputs.shape
        self.spec = replace(self.spec, length=H * W)
        super().__init__(splits, data)


def to_patches(images: Tensor, size: int) -> Tensor:
    """Images (N, H, W, C) to square patches (N, T, P), T = H W / size², P = size² C.

    Patches go row by row through the image; a patch's numbers go by row, column, channel.
    """
    N, H, W, C = images.shape
    grid = images.reshape(N, H // size, size, W // size, size, C)
    return grid.transpose(2, 3).reshape(N, -1, size * size * C)


def warp(images: Tensor, shift: Tensor, flip: Tensor, angle: Tensor) -> Tensor:
    """Each image shifted, then mirrored left to right where `flip`, then turned; bilinear, zeros from outside.

    images (N, S, S, C), shift (N, 2) pixels down and right, flip (N,) bool, angle (N,) radians
    counter-clockwise. Returns (N, S, S, C) float. All of it is one resampling.
    """
    N, S, _, C = images.shape
    cos, sin = angle.cos(), angle.sin()
    mirror = torch.where(flip, -1.0, 1.0)
    down, right = (shift * (2 / S)).unbind(1)
    # where an output pixel (x right, y down, both in [-1, 1]) comes from: the changes undone, last first
    source = torch.stack([mirror * cos, -mirror * sin, -right, sin, cos, -down], 1).view(N, 2, 3)
    grid = F.affine_grid(source, [N, C, S, S], align_corners=False)
    planes = images.permute(0, 3, 1, 2).float()
    return F.grid_sample(planes, grid, padding_mode="zeros", align_corners=False).permute(0, 2, 3, 1)


def to_grey(images: Tensor) -> Tensor:
    """ITU-R 601 luma, rounded: (N, H, W, 3) uint8 to (N, H, W, 1) uint8."""
    weights = torch.tensor([299, 587, 114], dtype=torch.int32)
    # in thousandths, as integers: the same on every device
    parts = [((part * weights).sum(-1, keepdim=True) + 500) // 1000 for part in images.split(CHUNK)]
    return torch.cat([part.to(torch.uint8) for part in parts])


def shrink(images: Tensor, side: int) -> Tensor:
    """Images (N, S, S, C) uint8 averaged over squares, rounded, to (N, side, side, C) uint8; `side` divides S."""
    _, S, _, C = images.shape
    area = (S // side) ** 2
    sums = [part.view(len(part), side, S // side, side, S // side, C).sum((2, 4)) for part in images.split(CHUNK)]
    return torch.cat([((part + area // 2) // area).to(torch.uint8) for part in sums])


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) and standard deviation (C,) of images (N, H, W, C) uint8, float32 in grey levels."""
    # from histograms: exact sums of whole numbers, in one pass over the bytes
    colours = [torch.bincount(colour.flatten(), minlength=256) for colour in images.unbind(-1)]
    share = torch.stack(colours).double() / colours[0].sum()
    level = torch.arange(256, dtype=torch.float64)
    mean = share @ level
    variance = (share * (level - mean[:, None]).square()).sum(1)
    return mean.float(), variance.sqrt().float()


Reader = Callable[[Sequence[Path]], ImageSet]
Kind = TypeVar("Kind", bound=ImageTask)


def _build(
    kind: type[Kind],
    read: Reader,
    options: Mapping[str, Any],
    request: TaskRequest,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> Kind:
    """The task `kind` on the images that `read` finds, with `val` training images held out.

    `prepare` makes what is stored, (N, H, W, C) uint8, of what was read.
    """
    val = read_options(request, kind.name, options)["val"]
    found = read(data_roots(request.data_dir))
    size = len(found.train.labels)
    if val == options["val"]:  # whoever names no number has the usual one in a configuration
        val = min(val, max(1, size // 10))
    if not 0 < val < size:
        raise ConfigError(f"option val of {kind.name}: expected 1 to {size - 1} of {size} training images, found {val}")
    train, test = (
        Examples(prepare(torch.tensor(part.images)), torch.tensor(part.labels)) for part in (found.train, found.test)
    )
    kept, held = split_held_out(size, val / size)
    splits = {
        name: Examples(train.inputs[rows], train.targets[rows]) for name, rows in (("train", kept), ("val", held))
    }
    splits["test"] = test
    counts = {name: len(part) for name, part in splits.items()}
    data = {**found.source, "counts": counts, "sha256": found.sha256(), "classes": list(found.classes)}
    return kind(splits, data)


def build_mnist(request: TaskRequest) -> Mnist:
    """MNIST with the request's options (see `MNIST_OPTIONS`). Raises ConfigError, DataError."""
    return _build(Mnist, read_mnist, MNIST_OPTIONS, request)


def build_cifar10(request: TaskRequest) -> Cifar10:
    """CIFAR-10 with the request's options (see `CIFAR10_OPTIONS`). Raises ConfigError, DataError."""
    return _build(Cifar10, read_cifar10, CIFAR10_OPTIONS, request)


def build_cifar10_lra(request: TaskRequest) -> Cifar10LRA:
    """CIFAR-10, grey and pixel by pixel (see `CIFAR10_LRA_OPTIONS`). Raises ConfigError, DataError."""
    side = read_options(request, Cifar10LRA.name, CIFAR10_LRA_OPTIONS)["side"]
    if side not in SIDES:
        raise ConfigError(f"option side of cifar10-lra: expected one of {', '.join(map(str, SIDES))}, found {side}")
    return _build(Cifar10LRA, read_cifar10, CIFAR10_LRA_OPTIONS, request, lambda images: shrink(to_grey(images), side))
