"""The first thing a model does to an image. It is part of the model, so that an attack sees RGB in [0, 1]."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.types import Images

Encoded = Float[Tensor, "image encoded_channel height width"]

ENCODINGS: Registry[type["AbstractEncoding"]] = Registry("encoding")


class AbstractEncoding(nn.Module, ABC):
    """Images in [0, 1] to what the first layer of a network takes."""

    channels: ClassVar[int]
    """Channels it gives for an RGB image."""

    unit_box: ClassVar[bool]
    """Whether encoded images fill [0, 1], so that the literature's attack on the encoding can be re-enacted."""

    @abstractmethod
    def forward(self, images: Images) -> Encoded:
        """What the network takes."""


@final
@ENCODINGS.registered("none")
class NoEncoding(AbstractEncoding):
    """RGB as it is."""

    channels = 3
    unit_box = True

    def forward(self, images: Images) -> Encoded:
        """Return the images themselves."""
        return images


@final
@ENCODINGS.registered("add_inverse")
class AddInverse(AbstractEncoding):
    """The six channels (r, g, b, 1-r, 1-g, 1-b), whose norm does not depend on brightness (Böhle et al., 2022, 3.2)."""

    channels = 6
    unit_box = True

    def forward(self, images: Images) -> Encoded:
        """Append the complement of each channel."""
        return torch.cat([images, 1 - images], dim=-3)


@final
@ENCODINGS.registered("normalize")
class Normalize(AbstractEncoding):
    """Subtract a mean and divide by a standard deviation, per channel, both in units of the pixel range."""

    channels = 3
    unit_box = False

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise RequestError(
                f"encoding 'normalize' needs three means and three positive deviations, got {mean} and {std}"
            )
        # Not persistent: what a card states is not also a tensor of the checkpoint.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Images) -> Encoded:
        """Standardise each channel."""
        return (images - self.mean) / self.std
