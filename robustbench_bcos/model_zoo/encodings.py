"""Encodings: the first step of a model, and part of it, so that attacks work on RGB images in [0, 1]."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.types import Float, Images
from robustbench_bcos.model_zoo.encoding_spec import EncodingSpec, check_constants

Encoded = Float[Tensor, "image encoded_channel height width"]

ENCODINGS: Registry[type["AbstractEncoding"]] = Registry("encoding")


class AbstractEncoding(nn.Module, ABC):
    """From images in [0, 1] to the input of the first layer."""

    channels: ClassVar[int]
    """Channels of an encoded RGB image; a third of them of a grey one."""

    unit_box: ClassVar[bool]
    """Whether encoded values fill [0, 1], so that attacks on the encoding, as in the literature, can be reproduced."""

    @abstractmethod
    def forward(self, images: Images) -> Encoded:
        """Encode images."""


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


@ENCODINGS.registered("normalize")
class Normalize(AbstractEncoding):
    """Subtract a mean and divide by a standard deviation, per channel, both in units of the pixel range."""

    channels = 3
    unit_box = False

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        check_constants(mean, std)
        self._same = len({*mean}) == len({*std}) == 1
        # Not persistent: the constants are on the card, not in the checkpoint.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Images) -> Encoded:
        """Standardise each channel; grey images where the constants are the same for all.

        Raises:
            ValueError: images are grey and the constants are those of three channels.
        """
        if images.shape[-3] == 3:
            return (images - self.mean) / self.std
        if not self._same:
            raise ValueError("normalize has constants for three channels, and the images have one")
        return (images - self.mean[:1]) / self.std[:1]


@final
@ENCODINGS.registered("normalize_add_inverse")
class NormalizeAddInverse(Normalize):
    """The six channels [n, -n] of the standardised image n, as published B-cosified networks take it."""

    channels = 6

    def forward(self, images: Images) -> Encoded:
        """Standardise each channel, and append its negative.

        Raises:
            ValueError: images are grey and the constants are those of three channels.
        """
        standard = super().forward(images)
        return torch.cat([standard, -standard], dim=-3)


def parse_encoding(text: str) -> AbstractEncoding:
    """The encoding that :meth:`EncodingSpec.parse` reads.

    Raises:
        RequestError: it is none.
    """
    spec = EncodingSpec.parse(text)
    return ENCODINGS[spec.kind](**spec.constants)
