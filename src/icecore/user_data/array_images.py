"""Images in memory, which are scaled to 8 bits and squares like those of files."""

from collections.abc import Sequence

import numpy as np
import torch

from icecore.core.errors import DataError
from icecore.user_data.image_decoding import ImageInspection
from icecore.user_data.notes import Note


class ArrayImages:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) of 1, 3 or 4 channels. Raises DataError for other arrays.

    Bytes are taken as they are, 16 bits and numbers between 0 and 1 by their range.
    """

    path = "The arrays"

    def __init__(self, pixels: np.ndarray) -> None:
        self.notes: list[Note] = []
        self.unreadable: list[tuple[str, str]] = []
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        if pixels.ndim == 4 and pixels.shape[3] not in (1, 3, 4) and pixels.shape[1] in (1, 3, 4):
            self.notes.append(("axes", f"{pixels.shape} has its channels in the second axis"))
            pixels = pixels.transpose(0, 2, 3, 1)
        if pixels.ndim != 4 or pixels.shape[3] not in (1, 3, 4):
            raise DataError(f"Images must have shape (N, H, W, C) with 1, 3 or 4 channels, but have {pixels.shape}.")
        self.pixels, self.scale = pixels, self._find_scale(pixels)
        self.names: Sequence[str] = [str(i) for i in range(len(pixels))]

    def __len__(self) -> int:
        return len(self.pixels)

    def content_codes(self) -> np.ndarray:
        """A code (N,) of each image, equal for equal images."""
        return np.unique([hash(image.tobytes()) for image in self.pixels], return_inverse=True)[1]

    def _find_scale(self, pixels: np.ndarray) -> float:
        """The factor that makes 8 bits of a value."""
        kind = pixels.dtype
        if kind == np.uint8:
            return 1.0
        if kind == np.bool_:
            return 255.0
        if kind == np.uint16:
            self.notes.append(("range", "16 bits per channel, scaled to 8"))
            return 255 / 65535
        if kind.kind not in "iuf" or not np.isfinite(pixels).all():
            raise DataError(f"Images must hold finite numbers, but have type {kind} or missing values.")
        low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
        if low < 0 or high > 255:
            raise DataError(
                f"Images must have values of 0 to 255, or of 0 to 1, but have {low:g} to {high:g}. Scale them first."
            )
        if kind.kind == "f" and high <= 1:
            self.notes.append(("range", "values of 0 to 1, scaled to 255"))
            return 255.0
        return 1.0

    def inspect(self) -> ImageInspection:
        """What the images look like."""
        _, H, W, C = self.pixels.shape
        return ImageInspection(min(H, W), C > 1, f"{len(self):,} of {W} x {H} pixels, {C} channels")

    def decode(
        self, order: np.ndarray, side: int, channels: int, white: float | None = None
    ) -> tuple[torch.Tensor, np.ndarray]:
        """The images `order` (N,) as (N, S, S, C) uint8, and their positions (N,): all of them."""
        from PIL import Image

        result = np.empty((len(order), side, side, channels), np.uint8)
        mode = "L" if channels == 1 else "RGB"
        for position, row in enumerate(order.tolist()):
            pixels = np.rint(self.pixels[row] * self.scale).astype(np.uint8)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            if pixels.shape[2] == 4:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert(mode)
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BILINEAR)
            result[position] = np.asarray(image).reshape(side, side, channels)
        return torch.from_numpy(result), np.arange(len(order))
