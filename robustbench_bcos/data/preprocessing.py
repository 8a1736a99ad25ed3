"""From an image of any size to the pixels that a model sees, which are those that an attack changes.

This happens once, before the attack: an epsilon is one of the image in the model's own size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing, by

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Framing):
    """Resize, crop, and scale to [0, 1], as torchvision's presets for ImageNet do on Pillow's images."""

    def pixels(self, picture: Image.Image, name: str) -> "torch.Tensor":
        """An RGB picture as float32 in [0, 1], (3, height, width).

        Args:
            picture: 8-bit RGB.
            name: what a refusal calls it.

        Raises:
            RequestError: it is smaller than the crop.
        """
        from torchvision.transforms.v2 import functional as transforms

        pixels: torch.Tensor = transforms.pil_to_tensor(self._framed(picture, name, self.interpolation))
        return pixels.float() / 255

    def classes(self, mask: Image.Image, name: str) -> "torch.Tensor":
        """Numbers of classes, framed as their picture is; each is that of the nearest pixel, since classes do not mix.

        Args:
            mask: of the size of the picture, 8 bits.
            name: what a refusal calls it.

        Raises:
            RequestError: it is smaller than the crop.
        """
        from torchvision.transforms.v2 import functional as transforms

        classes: torch.Tensor = transforms.pil_to_tensor(self._framed(mask, name, "nearest"))
        return classes[0]

    def _framed(self, picture: Image.Image, name: str, mode: str) -> Image.Image:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        if self.resize is not None:
            interpolation = InterpolationMode(mode)
            picture = transforms.resize(picture, [self.resize], interpolation=interpolation, antialias=True)
        if self.crop is None:
            return picture
        size = (picture.height, picture.width)
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            # torchvision would fill up with black, which is part of no picture.
            resized = "" if self.resize is None else " after it has been resized"
            raise RequestError(
                f"{name} has {by(size)} pixels{resized}, less than the {by(self.crop)} of the crop: give resize "
                f"{max(self.crop)} or more, or a smaller crop"
            )
        cropped: Image.Image = transforms.center_crop(picture, list(self.crop))
        return cropped


AS_THEY_ARE = Preprocessing()
"""Neither resized nor cropped."""
