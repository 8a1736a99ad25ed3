"""Explanations of any network after the fact, by captum (Kokhlikyan et al., 2020), with their settings.

All attribute to the encoded image, which is what the network computes with, and sum over its channels. What stands
for an absent value is 0 in that space: black without an encoding, the mean colour behind ``normalize``, and no colour
at all behind ``add_inverse``, where black is (0, 0, 0, 1, 1, 1).
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations.attribution import Attribution, Targets, largest
from robustbench_bcos.model_zoo.bcos.layers import UnitConv2d, is_bcos

PATH_POINTS = 32
"""Points of the Gauss-Legendre rule along the path of integrated gradients."""

LIME_CELLS = 8
"""LIME switches the squares of a grid with so many cells on a side, or single pixels of a smaller image."""
LIME_SAMPLES = 256
LIME_WIDTH = 0.25
"""Width of the kernel exp(-d^2 / width^2) over the cosine distance d (Ribeiro et al., 2016, and their code)."""
LIME_RIDGE = 1.0
"""Penalty of the ridge regression, as in the authors' code."""

UNEXPLAINED = 0.01
"""Share of the change of a logit that DeepLIFT may leave unattributed before it counts as not applicable."""


def integrated_gradients(
    network: nn.Module, encoded: Images, targets: Targets | None, generator: PerImageRng
) -> Attribution:
    """Mean gradient on the straight path from 0 times the encoded image (Sundararajan et al., 2017)."""
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(network, multiply_by_inputs=False)

    def mean_gradients(target: Tensor) -> Tensor:
        gradients: Tensor = method.attribute(
            encoded.detach().clone(), target=target, n_steps=PATH_POINTS, internal_batch_size=max(len(encoded), 64)
        )
        return gradients

    return _multiplied(network, encoded, targets, mean_gradients)


def deeplift(network: nn.Module, encoded: Images, targets: Targets | None, generator: PerImageRng) -> Attribution:
    """Multipliers of the rescale rule, against 0 (Shrikumar et al., 2017), times the encoded image.

    Raises:
        RequestError: the network has nonlinearities that the rule does not see: those of B-cos layers, and functions
            that are not modules or are used twice. Contributions that do not sum to the change of the logit tell.
    """
    from captum.attr import DeepLift

    if is_bcos(network):
        raise RequestError("deeplift has no rule for B-cos layers: choose dynamic_weights or integrated_gradients")
    method = DeepLift(network, multiply_by_inputs=False)

    def multipliers(target: Tensor) -> Tensor:
        with _captum_explained("deeplift"):
            found: Tensor = method.attribute(encoded.detach().clone().requires_grad_(), target=target)
        return found.detach()

    attribution = _multiplied(network, encoded, targets, multipliers)
    with torch.no_grad():
        change = (attribution.logits - network(torch.zeros_like(encoded))).gather(1, attribution.targets)
    missing = (attribution.contributions.sum(dim=(2, 3)) - change).abs()
    if (missing > UNEXPLAINED * attribution.logits.abs().amax(dim=1, keepdim=True)).any():
        raise RequestError(
            "deeplift does not see all nonlinearities of this network (functions, or modules used twice): "
            "choose integrated_gradients, say"
        )
    return attribution


def gradcam(network: nn.Module, encoded: Images, targets: Targets | None, generator: PerImageRng) -> Attribution:
    """Positive part of the last feature maps weighted by their mean gradients (Selvaraju et al., 2017).

    Enlarged to the image bilinearly.

    Raises:
        RequestError: the network has no feature maps of more than one position.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    method = LayerGradCam(network, last_feature_maps(network, encoded))
    logits, chosen = _answers(network, encoded, targets)
    maps = []
    for target in chosen.unbind(dim=1):
        coarse = method.attribute(encoded.detach().clone(), target=target, relu_attributions=True)
        maps.append(LayerAttribution.interpolate(coarse, tuple(encoded.shape[2:]), "bilinear").squeeze(1))
    return Attribution(None, torch.stack(maps, dim=1).detach(), logits, chosen)


def lime(network: nn.Module, encoded: Images, targets: Targets | None, generator: PerImageRng) -> Attribution:
    """Coefficients of a ridge regression of the logit on which squares of a grid are there (Ribeiro et al., 2016).

    Each is shared out evenly over its square.
    """
    logits, chosen = _answers(network, encoded, targets)
    grid = _grid(*encoded.shape[2:]).to(encoded.device)
    area = grid.flatten().bincount()
    maps = encoded.new_zeros((*chosen.shape, *grid.shape))
    # The same squares are switched for every target of an image.
    for image, target in ((i, t) for i in range(len(encoded)) for t in range(chosen.shape[1])):
        source = generator(0)[image]
        coefficients = _lime_coefficients(network, encoded[image : image + 1], int(chosen[image, target]), grid, source)
        maps[image, target] = (coefficients.to(encoded) / area)[grid]
    return Attribution(None, maps, logits, chosen)


def last_feature_maps(network: nn.Module, encoded: Images) -> nn.Module:
    """The last module to give maps of more than one position, maps of classes not counted."""
    seen: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and math.prod(output.shape[2:]) > 1:
            seen.append((module, tuple(output.shape)))

    hooks = [module.register_forward_hook(note) for module in network.modules() if not isinstance(module, UnitConv2d)]
    try:
        with torch.no_grad():
            classes = network(encoded[:1]).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    features = [module for module, shape in seen if shape[1] != classes]
    if not features:
        raise RequestError("gradcam needs feature maps and this network has none: choose integrated_gradients, say")
    return features[-1]


def _multiplied(
    network: nn.Module, encoded: Images, targets: Targets | None, weights_of: Callable[[Tensor], Tensor]
) -> Attribution:
    logits, chosen = _answers(network, encoded, targets)
    weights = torch.stack([weights_of(target).to(encoded) for target in chosen.unbind(dim=1)], dim=1)
    return Attribution(weights, (weights * encoded.detach()[:, None]).sum(dim=2), logits, chosen)


def _answers(network: nn.Module, encoded: Images, targets: Targets | None) -> tuple[Tensor, Targets]:
    with torch.no_grad():
        logits = network(encoded)
    return logits, largest(logits) if targets is None else targets


def _grid(height: int, width: int) -> Tensor:
    """Number of the square each pixel is in, without gaps."""
    rows = torch.arange(height) * min(LIME_CELLS, height) // height
    columns = torch.arange(width) * min(LIME_CELLS, width) // width
    return rows[:, None] * (int(columns.max()) + 1) + columns


def _lime_coefficients(network: nn.Module, image: Images, target: int, grid: Tensor, source: torch.Generator) -> Tensor:
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import LimeBase

    squares = int(grid.max()) + 1

    def draw(_: Tensor, **__: Any) -> Tensor:  # noqa: ANN401 (captum hands on what it was called with)
        return torch.randint(2, (1, squares), generator=source).to(image)

    def nearness(_: Tensor, __: Tensor, present: Tensor, **___: Any) -> Tensor:  # noqa: ANN401
        distance = 1 - present.mean().sqrt()  # of a binary vector to the one that is 1 everywhere
        return torch.exp(-((distance / LIME_WIDTH) ** 2))

    def switched(present: Tensor, original: Tensor, **_: Any) -> Tensor:  # noqa: ANN401
        return original * present[0][grid]

    regression = LimeBase(
        network,
        SkLearnRidge(alpha=LIME_RIDGE),
        similarity_func=nearness,
        perturb_func=draw,
        perturb_interpretable_space=True,
        from_interp_rep_transform=switched,
        to_interp_rep_transform=None,
    )
    with torch.random.fork_rng(devices=[]):
        coefficients: Tensor = regression.attribute(
            image.detach(), target=target, n_samples=LIME_SAMPLES, perturbations_per_eval=64
        )
    return coefficients[0]


@contextmanager
def _captum_explained(method: str) -> Iterator[None]:
    """Turn what captum asserts and warns of into a request that can be changed."""
    try:
        with warnings.catch_warnings():
            # It tells that it puts hooks on the network, which it takes off again.
            warnings.filterwarnings("ignore", message="Setting forward, backward hooks", category=UserWarning)
            yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        raise RequestError(
            f"{method} cannot serve this network ({reason_of(error)}): choose integrated_gradients, say"
        ) from None
