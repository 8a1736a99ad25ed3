"""A classifier that says why along with what: what attacks on explanations ask."""

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.explanations.second_derivatives import Attached, Softened, twice_differentiable
from robustbench_bcos.model_zoo.classifier import ImageClassifier


def attachable_methods() -> list[str]:
    """Methods whose maps can be attacked."""
    return [name for name in METHODS if METHODS[name].attachable]


class Explained(nn.Module):
    """Logits of a model and behind them, pixel by pixel, the map of the class that it predicts.

    Where the model has rectifiers, values are its own, and gradients those of the model with softplus in their place:
    which iterate is best is decided by the model itself.

    Args:
        model: in evaluation mode.
        method: of explanation.
        softened: whether softplus takes the place of rectifiers where gradients are taken.

    Raises:
        RequestError: maps of this method have no derivative.
    """

    def __init__(self, model: nn.Module, method: str, *, softened: bool = False) -> None:
        super().__init__()
        if not METHODS[method].attachable:
            raise RequestError(
                f"maps of {method} have no derivative, so that no attack can move them: choose from "
                f"{', '.join(attachable_methods())}"
            )
        self.model = model
        self.method = method
        self.softened = softened

    def forward(self, images: Images) -> Tensor:
        """Of shape (image, class + pixel)."""
        differentiated = torch.is_grad_enabled() and images.requires_grad
        if not (differentiated and self.softened):
            return self._outputs(images, differentiated=differentiated)
        true = self._outputs(images.detach(), differentiated=False)
        with Softened():
            soft = self._outputs(images, differentiated=True)
        return soft + (true - soft).detach()

    def _outputs(self, images: Images, *, differentiated: bool) -> Tensor:
        found = self._attached(images, differentiated=differentiated)
        return torch.cat([found.logits, found.maps.flatten(1)], dim=1)

    def _attached(self, images: Images, *, differentiated: bool) -> Attached:
        method = METHODS[self.method]
        with twice_differentiable():
            if not differentiated:
                explanation = explain(self.model, images.detach(), method=self.method)
                return Attached(explanation.logits, explanation.contributions)
            if isinstance(self.model, ImageClassifier):
                encoded, network = self.model.encoding(images), self.model.network
            else:
                # A function of its own, so that the gradient by the image itself can be asked for.
                encoded, network = images * 1, self.model
            method.check(network)
            return method.attached(network, encoded)
