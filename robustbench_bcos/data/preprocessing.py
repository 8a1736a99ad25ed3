"""From an image of any size to the pixels that a model sees, which are those that an attack changes.

This happens once, before the attack: an epsilon is one of the image in the model's own size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from PIL import Image

from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    import torch

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop, and scale to [0, 1], as torchvision's presets for ImageNet do on Pillow's images.

    Raises:
        RequestError: the crop fits into no image that has been resized.
    """

    resize: int | None = None
    """Length of the shorter side in pixels; the longer one follows. ``None`` leaves images as large as they are."""
    crop: tuple[int, int] | None = None
    """Height and width of the part in the middle that is kept. ``None`` keeps everything."""
    interpolation: Interpolation = "bilinear"
    """Always with the filter widened where images become smaller (antialiasing)."""

    def __post_init__(self) -> None:
        if self.resize is not None and self.crop is not None and min(self.crop) > self.resize:
            raise RequestError(
                f"a crop to {_by(self.crop)} pixels does not fit into images whose shorter side is resized to "
                f"{self.resize}: give a resize that is at least as large as crop"
            )

    def pixels(self, picture: Image.Image, name: str) -> "torch.Tensor":
        """An RGB picture as float32 in [0, 1], (3, height, width).

        Args:
            picture: 8-bit RGB.
            name: what a refusal calls it.

        Raises:
            RequestError: it is smaller than the crop.
        """
        from torchvision.transforms.v2 import functional as transforms

        pixels: torch.Tensor = transforms.pil_to_tensor(self._framed(picture, name))
        return pixels.float() / 255

    def _framed(self, picture: Image.Image, name: str) -> Image.Image:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        if self.resize is not None:
            interpolation = InterpolationMode(self.interpolation)
            picture = transforms.resize(picture, [self.resize], interpolation=interpolation, antialias=True)
        if self.crop is None:
            return picture
        size = (picture.height, picture.width)
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            # torchvision would fill up with black, which is part of no picture.
            resized = "" if self.resize is None else " after it has been resized"
            raise RequestError(
                f"{name} has {_by(size)} pixels{resized}, less than the {_by(self.crop)} of the crop: give resize "
                f"{max(self.crop)} or more, or a smaller crop"
            )
        cropped: Image.Image = transforms.center_crop(picture, list(self.crop))
        return cropped

    def __str__(self) -> str:
        """In plain words; empty where images are taken as they are."""
        parts = []
        if self.resize is not None:
            parts.append(f"shorter side resized to {self.resize} pixels ({self.interpolation})")
        if self.crop is not None:
            parts.append(f"middle {_by(self.crop)} cropped out")
        return ", ".join(parts)


AS_THEY_ARE = Preprocessing()
"""Neither resized nor cropped."""


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
