"""From a picture of any size to the pixels that a model sees, and that an attack therefore moves.

What is done here is done once, before the attack: a radius is a radius of the image in the model's own size.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing, by


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Framing):
    """Resize, crop, and scale to [0, 1], as torchvision's presets for ImageNet do on Pillow's images."""

    def pixels(self, picture: Image.Image, name: str) -> Tensor:
        """An RGB picture as float32 in [0, 1], (3, height, width).

        Args:
            picture: 8-bit RGB.
            name: what a refusal calls it.

        Raises:
            RequestError: it is smaller than the crop.
        """
        framed = self._framed(picture, name, InterpolationMode(self.interpolation))
        pixels: Tensor = transforms.pil_to_tensor(framed)
        return pixels.to(torch.float32) / 255

    def mask(self, picture: Image.Image, name: str) -> Tensor:
        """The class of each pixel, (height, width), framed as its picture is; classes are picked and not mixed.

        Args:
            picture: one 8-bit channel, or a palette's indices.
            name: what a refusal calls it.

        Raises:
            RequestError: it is smaller than the crop.
        """
        classes: Tensor = transforms.pil_to_tensor(self._framed(picture, name, InterpolationMode.NEAREST))
        return classes[0].to(torch.long)

    def _framed(self, picture: Image.Image, name: str, interpolation: InterpolationMode) -> Image.Image:
        if self.resize is not None:
            picture = transforms.resize(picture, [self.resize], interpolation=interpolation, antialias=True)
        if self.crop is None:
            return picture
        size = (picture.height, picture.width)
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            # torchvision would fill up with black, which is part of no picture.
            resized = "" if self.resize is None else " after it has been resized"
            raise RequestError(
                f"{name} has {by(size)} pixels{resized}, less than the {by(self.crop)} of the crop: give --resize "
                f"{max(self.crop)} or more, or a smaller --crop"
            )
        cropped: Image.Image = transforms.center_crop(picture, list(self.crop))
        return cropped


AS_THEY_ARE = Preprocessing()
"""Neither resized nor cropped."""
