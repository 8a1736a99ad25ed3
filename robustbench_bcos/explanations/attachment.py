"""A module that returns logits and explanation maps together: the target of attacks on explanations."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from robustbench_bcos.core.adapted import copied
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.explanations.method import AbstractAttachableMethod
from robustbench_bcos.explanations.second_derivatives import Attached, Softened, twice_differentiable
from robustbench_bcos.model_zoo.classifier import ImageClassifier

DIRECTIONS = 8
STEP = 1e-6
"""Length of a difference, in units of the pixel range: scales of exponents below 2 bend sharply."""

FARTHEST = 0.5
"""By which the gradient may differ from differences, relative to those: kinks and rounding make a tenth of it."""

ROUNDING = 1e-6
"""By which it may differ besides, relative to the maps."""


def attachable_methods() -> list[str]:
    """Methods whose maps can be attacked."""
    return [name for name in METHODS if isinstance(METHODS[name], AbstractAttachableMethod)]


def attachable_method(name: str) -> AbstractAttachableMethod:
    """The method of that name.

    Raises:
        RequestError: its maps have no derivative.
    """
    method = METHODS[name]
    if not isinstance(method, AbstractAttachableMethod):
        raise RequestError(
            f"maps of {name} have no derivative, so that no attack can move them: choose from "
            f"{', '.join(attachable_methods())}"
        )
    return method


def agrees_with_differences(explained: "Explained", images: Images, rng: PerImageRng) -> bool:
    """Whether gradients of maps are their slopes, in random directions.

    A layer of one's own without a second derivative leaves out a part of the gradient, and torch may not say so. In
    float64, on a copy of the model; one that cannot be copied is believed.
    """
    try:
        exact = Explained(copied(explained.model).double(), explained.method)
    except Exception:  # Copying failed for a reason of the module's own: there is no evidence against it.
        return True
    images = images.double().clamp(STEP, 1 - STEP)
    shape = (DIRECTIONS, *images.shape[1:])
    draws = torch.stack([torch.randn(shape, generator=source) for source in rng(0)]).to(images)
    directions = draws / draws.flatten(2).norm(dim=2)[:, :, None, None, None]
    weights = draws[0, 0, 0].flatten()

    def sums(tried: Images) -> Tensor:
        """A weighted sum of each map."""
        weighted: Tensor = exact(tried)[:, -len(weights) :] @ weights
        return weighted

    with torch.enable_grad(), Softened() if explained.softened else nullcontext():
        leaf = images.detach().clone().requires_grad_()
        at_image = sums(leaf)
        (gradient,) = torch.autograd.grad(at_image.sum(), leaf, materialize_grads=True)
        moved = [
            sums(images + STEP * directions[:, place]) - sums(images - STEP * directions[:, place])
            for place in range(DIRECTIONS)
        ]
    measured = torch.stack(moved, dim=1) / (2 * STEP)
    expected = (gradient[:, None] * directions).flatten(2).sum(dim=2)
    allowed = FARTHEST * measured.norm() + ROUNDING * at_image.detach().norm()
    return bool((expected - measured).norm() <= allowed)


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
        attachable_method(method)
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
        method = attachable_method(self.method)
        with twice_differentiable():
            if not differentiated:
                explanation = explain(self.model, images.detach(), method=self.method)
                return Attached(explanation.logits, explanation.contributions)
            if isinstance(self.model, ImageClassifier):
                encoded, network = self.model.encoding(images), self.model.network
            else:
                # A new tensor in the graph, so that gradients can be taken by it and by the image.
                encoded, network = images * 1, self.model
            method.check(network)
            return method.attached(network, encoded)
