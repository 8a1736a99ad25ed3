"""Encodings: the first step of a model, and part of it, so that attacks work on RGB images in [0, 1]."""

import math
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

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""A mean and a standard deviation for each channel, in units of the pixel range."""

CONSTANTS: dict[str, Constants] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # To [-1, 1], and to [0, 255].
    "symmetric": ((0.5,) * 3, (0.5,) * 3),
    "bytes": ((0.0,) * 3, (1 / 255,) * 3),
}
"""Constants by name: of two datasets, and of two other pixel ranges."""


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
        finite = all(math.isfinite(value) for value in (*mean, *std))
        if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
            raise RequestError(
                f"encoding 'normalize' needs three means and three positive deviations, got {mean} and {std}"
            )
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


def parse_encoding(text: str) -> AbstractEncoding:
    """``none``, ``add_inverse``, ``normalize:NAME`` of ``CONSTANTS``, or ``normalize:MEAN/DEVIATION``.

    Both may be one number for all channels or three with commas between them.

    Raises:
        RequestError: it is none of these.
    """
    kind, _, constants = text.partition(":")
    if kind == "normalize":
        return Normalize(*_parse_constants(constants))
    if constants:
        raise RequestError(f"--encoding {text}: {kind} takes no constants, and normalize does: leave them out")
    return ENCODINGS[kind]()


def _parse_constants(text: str) -> Constants:
    if text in CONSTANTS:
        return CONSTANTS[text]
    mean, _, deviation = text.partition("/")
    try:
        return _three(mean), _three(deviation)
    except ValueError:
        raise RequestError(
            f"--encoding normalize:{text} gives no mean and deviation: write normalize:0.485,0.456,0.406/"
            f"0.229,0.224,0.225, or one of {', '.join(f'normalize:{name}' for name in CONSTANTS)}"
        ) from None


def _three(text: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in text.split(","))
    return values * 3 if len(values) == 1 else values
