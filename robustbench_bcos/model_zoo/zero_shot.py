"""Classification by texts: the feature of an image, compared with the features of texts.

A cosine does not change with the length of a feature, so its gradient times the input sums to 0. In explanation mode
the length is a constant, and contributions sum to the cosine they explain.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Float, Logits
from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer
from robustbench_bcos.model_zoo.prompts import Prompts

if TYPE_CHECKING:
    from robustbench_bcos.model_zoo.encodings import Encoded

Prototypes = Float[Tensor, "text feature"]
TextFeatures = Float[Tensor, "text template feature"]

LEAST = torch.finfo(torch.float32).tiny
"""Length that a feature of zeros is taken to have."""


class ZeroShotNetwork(DynamicLayer):
    """An image tower, and texts as classes: logits are ``scale`` sign(c) abs(c)^``power`` of the cosines c.

    One definition serves training, accuracy and explanations.

    Args:
        tower: from encoded images to one feature each, (image, feature), or to one for each place, (image, place,
            feature), of whose logits the mean is taken.
        prototypes: a feature for each text, (text, feature); its length does not matter.
        scale: by which cosines are multiplied, greater than 0.
        power: to which their magnitudes are raised, at least 1.
        bias: added to all logits.

    Raises:
        RequestError: prototypes are no such features, or a number is out of range.
    """

    prototypes: Tensor

    def __init__(
        self, tower: nn.Module, prototypes: Tensor, *, scale: float = 1.0, power: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        if prototypes.dim() != 2 or not prototypes.isfinite().all() or (prototypes == 0).all(dim=1).any():
            raise RequestError(
                f"prototypes must be one feature a text, finite and not 0, got shape {tuple(prototypes.shape)}: give "
                "what a text encoder says"
            )
        if not (scale > 0 and power >= 1):
            raise RequestError(f"scale {scale} must be positive and power {power} at least 1: leave them out for 1")
        self.tower = tower
        self.scale = scale
        self.power = power
        self.bias = bias
        self.register_buffer("prototypes", unit(prototypes.detach()).float())

    def compare_with(self, prototypes: Prototypes) -> None:
        """Take other texts for classes."""
        self.prototypes = unit(prototypes.detach()).to(self.prototypes)

    def forward(self, encoded: "Encoded") -> Logits:
        """Encoded images to a logit for each text."""
        features: Tensor = self.tower(encoded)
        if features.dim() not in (2, 3) or features.shape[-1] != self.prototypes.shape[1]:
            raise RequestError(
                f"the image tower gives features of shape {tuple(features.shape[1:])}, and prototypes have "
                f"{self.prototypes.shape[1]} numbers: take both from one model"
            )
        # Features of a deep B-cos network that nobody has trained are so small that their squares underflow.
        lengths = torch.linalg.vector_norm(features.double(), dim=-1, keepdim=True).clamp(min=LEAST).to(features)
        cosines = features / self.as_constant(lengths) @ self.prototypes.to(features).T
        if self.power != 1:
            cosines = cosines * self.as_constant(cosines.abs().pow(self.power - 1))
        logits: Tensor = self.scale * cosines + self.bias
        return logits if logits.dim() == 2 else logits.mean(dim=1)


def zero_shot_of(model: nn.Module) -> ZeroShotNetwork:
    """The zero-shot head inside a model that has one."""
    return next(module for module in model.modules() if isinstance(module, ZeroShotNetwork))


def prototypes_for(prompts: Prompts, encode: Callable[[list[str]], Tensor]) -> Prototypes:
    """One feature for each class, of what an encoder says of its texts."""
    features = encode([text for of_class in prompts.of_classes for text in of_class])
    return prototypes_of(features.unflatten(0, (len(prompts.classes), len(prompts.templates))))


def prototypes_of(features: TextFeatures) -> Prototypes:
    """One feature for each text: templates are normalised, averaged, and their mean is (Radford et al., 2021)."""
    return unit(unit(features).mean(dim=1))


def unit(features: Tensor) -> Tensor:
    """Features of length 1."""
    return nn.functional.normalize(features.double(), dim=-1).to(features.dtype)
