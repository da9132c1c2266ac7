"""Images as tokens: square patches of square images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import ConfigError, DataError
from icecore.core.text import join_names, pluralize
from icecore.tasks.image_operations import channel_statistics, to_patches
from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoders.input_encoder import EncodedInputs
from icecore.user_data.notes import Note
from icecore.user_data.records import ImageRecords

#: sides in pixels to choose from: the smallest that is at least that of the images, or the largest
IMAGE_SIDES = (8, 16, 32, 64)
#: side in pixels of the smallest patch: single pixels make long sequences that say little per token
SMALLEST_PATCH = 2
#: training images from which mean and standard deviation are computed
STATISTICS_IMAGES = 20_000


@dataclass(frozen=True)
class ImageEncoder:
    """Square images as square patches, one per token.

    side, patch  sides of an image and of a patch, in pixels
    mean, std    of each channel, over training images
    read_out     which hidden states predict
    white        number that is white in images of more than 8 bits; None: 65535
    """

    kind: ClassVar[TokenKind] = "continuous"
    side: int
    channels: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read_out: ReadOut = "last"
    white: float | None = None

    @property
    def length(self) -> int:
        """T: patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def token_size(self) -> int:
        """P: numbers of a patch."""
        return self.patch**2 * self.channels

    @classmethod
    def fit(
        cls, records: ImageRecords, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["ImageEncoder", EncodedInputs]:
        """Choose side and channels by a few images, and at most 64 patches unless `patch` is set.

        Raises ConfigError if `patch` does not divide the side, DataError if no training image is readable.
        """
        inspection = records.images.inspect()
        side = settings.size or next((side for side in IMAGE_SIDES if side >= inspection.shorter_side), IMAGE_SIDES[-1])
        smallest = max(min(SMALLEST_PATCH, side), side // 8)
        patch = settings.patch or next(patch for patch in range(smallest, side + 1) if side % patch == 0)
        if side % patch:
            raise ConfigError(f"patch must divide the image side of {side} pixels, but is {patch}.")
        channels = 3 if inspection.has_colour else 1
        means, stds = (0.0,) * channels, (1.0,) * channels
        encoder = cls(side, channels, patch, means, stds, "mean", inspection.white)
        encoded = encoder.encode(records, order)
        count = int(np.searchsorted(encoded.rows, train))
        if not count:
            raise DataError(f"{records.images.path}: none of {pluralize(train, 'training image')} is readable.")
        mean, std = channel_statistics(encoded.inputs[: min(count, STATISTICS_IMAGES)])
        encoded.notes.insert(0, ("found", inspection.description))
        return replace(encoder, mean=tuple(mean.tolist()), std=tuple(std.clamp_min(1.0).tolist())), encoded

    def encode(self, records: ImageRecords, order: np.ndarray) -> EncodedInputs:
        """Images (n, S, S, C) uint8. Unreadable images are left out and noted."""
        images = records.images
        inputs, rows = images.decode(order, self.side, self.channels, self.white)
        notes: list[Note] = []
        if images.unreadable:
            skipped = [f"{name} ({reason.splitlines()[0][:60]})" for name, reason in images.unreadable]
            message = f"{pluralize(len(skipped), 'unreadable image')}: {join_names(skipped, 3)}"
            notes = [("skipped", f"{message} (--strict refuses them)")]
        return EncodedInputs(inputs, None, rows, notes)

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """From images (N, S, S, C) uint8 to standardised patches (N, T, P)."""
        mean, std = (torch.tensor(x, device=device) for x in (self.mean, self.std))
        return lambda inputs: to_patches((inputs - mean) / std, self.patch)

    def describe(self) -> str:
        """Size, colour and patches."""
        colour = "colour" if self.channels == 3 else "grey"
        return f"images of {self.side} x {self.side} pixels, {colour}, in patches of {self.patch} x {self.patch}"
