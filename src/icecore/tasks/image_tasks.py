"""MNIST, CIFAR-10 and CIFAR-10 LRA: images as patches or pixels, one to a token (Lu et al. 2021, section 2.1).

Whole images stay on the training device as uint8. Augmentation, cutting into patches and normalisation are done there,
for a whole batch at once.
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
from icecore.tasks.cifar10_files import read_cifar10
from icecore.tasks.data_files import data_roots
from icecore.tasks.entry import TaskEntry, TaskRequest, paper_settings, read_options
from icecore.tasks.image_operations import channel_statistics, shrink, to_grey, to_patches, warp
from icecore.tasks.image_set import ImageSet
from icecore.tasks.mnist_files import read_mnist
from icecore.tasks.sampling import split_held_out
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import TaskDefaults, TaskSpec

# `val` is the number of training images that are held out. The default is reduced for a data set that has fewer than
# ten times as many training images.
MNIST_OPTIONS: Mapping[str, Any] = {"val": 2000}
CIFAR10_OPTIONS: Mapping[str, Any] = {"val": 5000}
# `side`: pixels are averaged to side x side. Below 32 this is a shorter, blurred variant of Long Range Arena's task.
CIFAR10_LRA_OPTIONS: Mapping[str, Any] = {"val": 5000, "side": 32}
SIDES = (4, 8, 16, 32)

#: largest random shift of a CIFAR-10 image in pixels, and largest rotation in radians
CROP_PADDING = 4
MAX_ROTATION = math.radians(20)


class ImageTask(StoredTask):
    """Classification of images (H, W, C) with C colour channels, cut into square patches, one patch to a token.

    Pixels become (pixel - mean) / std. `mean` and `std` (C,) are in grey levels from 0 to 255 (in `data` in units of
    255). If `standardised`, they are those of each channel over the training split, else 0 and 255.
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
        """Move the stored images and the statistics to `device`, in place, and return the task."""
        super().to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Images (N, H, W, C), uint8 or augmented floats on the same scale, to patches (N, T, P)."""
        return to_patches((inputs - self.mean) / self.std, self.patch)


class Mnist(ImageTask):
    """MNIST: 28x28 digits with a border of zeros, 32x32, as 8x8 patches of 4x4 pixels."""

    name = "mnist"
    spec = TaskSpec("continuous", length=64, size=16, outputs=10)
    defaults = TaskDefaults(steps=3200, batch_size=8, lr=2e-3, eval_every=800)
    # Empty patches stay exactly zero, so that only their position counts. This learns faster than standardised pixels.
    standardised = False

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Digits (N, 28, 28, 1) uint8 to patches (N, 64, 16)."""
        # The border is added before scaling, because it continues the background of the digits.
        return super().tokens(F.pad(inputs, (0, 0, 2, 2, 2, 2)), lengths)


class Cifar10(ImageTask):
    """CIFAR-10: 8x8 patches of 4x4 RGB pixels; cropped, flipped and rotated in training."""

    name = "cifar10"
    spec = TaskSpec("continuous", length=64, size=48, outputs=10)
    defaults = TaskDefaults(steps=5000, batch_size=16, lr=1e-3, eval_every=500)
    augment_draws = 4

    def augment(self, inputs: Tensor, draws: Tensor) -> Tensor:
        """Crop with padding 4, then flip horizontally, then rotate by at most 20 degrees.

        inputs (N, 32, 32, 3) uint8, draws (N, 4) in [0, 1) for down, right, flip and angle; a row of 0.5 changes
        nothing. Returns (N, 32, 32, 3) float.
        """
        shift = (draws[:, :2] * (2 * CROP_PADDING + 1)).floor() - CROP_PADDING
        return warp(inputs, shift, draws[:, 2] < 0.5, (2 * draws[:, 3] - 1) * MAX_ROTATION)


class Cifar10LRA(ImageTask):
    """CIFAR-10 as in Long Range Arena: grey, one pixel to a token, row by row, not augmented."""

    name = "cifar10-lra"
    spec = TaskSpec("continuous", length=1024, size=1, outputs=10)
    defaults = TaskDefaults(steps=3000, batch_size=8, lr=1e-3, eval_every=500)
    patch = 1

    def __init__(self, splits: Mapping[str, Examples], data: Mapping[str, Any]) -> None:
        _, H, W, _ = splits["train"].inputs.shape
        self.spec = replace(self.spec, length=H * W)
        super().__init__(splits, data)


Reader = Callable[[Sequence[Path]], ImageSet]
ImageTaskT = TypeVar("ImageTaskT", bound=ImageTask)


def _build(
    task: type[ImageTaskT],
    read: Reader,
    options: Mapping[str, Any],
    request: TaskRequest,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> ImageTaskT:
    """The task on the images that `read` finds, with `val` training images held out.

    `prepare` turns images as they were read into the images to store, both (N, H, W, C) uint8.
    """
    val = read_options(request, task.name, options)["val"]
    source = read(data_roots(request.data_dir))
    size = len(source.train.labels)
    if val == options["val"]:  # a configuration holds the default too, so it cannot be told from a user's choice
        val = min(val, max(1, size // 10))
    if not 0 < val < size:
        raise ConfigError(f"option val of {task.name}: expected 1 to {size - 1} of {size} training images, found {val}")
    train, test = (
        Examples(prepare(torch.tensor(part.images)), torch.tensor(part.labels)) for part in (source.train, source.test)
    )
    remaining, held_out = split_held_out(size, val / size)
    rows_of = {"train": remaining, "val": held_out}
    splits = {name: Examples(train.inputs[rows], train.targets[rows]) for name, rows in rows_of.items()}
    splits["test"] = test
    counts = {name: len(part) for name, part in splits.items()}
    data = {**source.origin, "counts": counts, "sha256": source.sha256(), "classes": list(source.classes)}
    return task(splits, data)


def build_mnist(request: TaskRequest) -> Mnist:
    """MNIST with the request's options (see `MNIST_OPTIONS`). Raises ConfigError, DataError."""
    return _build(Mnist, read_mnist, MNIST_OPTIONS, request)


def build_cifar10(request: TaskRequest) -> Cifar10:
    """CIFAR-10 with the request's options (see `CIFAR10_OPTIONS`). Raises ConfigError, DataError."""
    return _build(Cifar10, read_cifar10, CIFAR10_OPTIONS, request)


def build_cifar10_lra(request: TaskRequest) -> Cifar10LRA:
    """CIFAR-10 as grey pixels (see `CIFAR10_LRA_OPTIONS`). Raises ConfigError, DataError."""
    side = read_options(request, Cifar10LRA.name, CIFAR10_LRA_OPTIONS)["side"]
    if side not in SIDES:
        raise ConfigError(f"option side of cifar10-lra: expected one of {', '.join(map(str, SIDES))}, found {side}")
    return _build(Cifar10LRA, read_cifar10, CIFAR10_LRA_OPTIONS, request, lambda images: shrink(to_grey(images), side))


MNIST = TaskEntry(
    Mnist,
    build_mnist,
    lambda options: Mnist.spec,
    "handwritten digits in 4 x 4 patches",
    paper_settings(5_000, 16),
    MNIST_OPTIONS,
    kind="images",
)
CIFAR10 = TaskEntry(
    Cifar10,
    build_cifar10,
    lambda options: Cifar10.spec,
    "small colour images in 4 x 4 patches, augmented",
    paper_settings(400_000, 16),
    CIFAR10_OPTIONS,
    kind="images",
)
CIFAR10_LRA = TaskEntry(
    Cifar10LRA,
    build_cifar10_lra,
    lambda options: replace(Cifar10LRA.spec, length=options["side"] ** 2),
    "small grey images, one pixel to a token (Long Range Arena)",
    paper_settings(300_000, 16),
    CIFAR10_LRA_OPTIONS,
    kind="images",
)
