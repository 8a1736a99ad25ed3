"""Pictures of explanations: colours show the direction of a weight, opacity its size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_bcos.core.types import Float, Images, Maps
from robustbench_bcos.explanations.explanation import Explanation

RGBA = Float[Tensor, "image height width 4"]

ALPHA_QUANTILE = 0.995
"""Alpha at which a picture is opaque, among its own pixels (Böhle et al., 2022, and the official code)."""

SMOOTH = 15 / 224
"""Side of the smoothing window as a share of the image's: the official 15 pixels were made for images of 224."""

ZERO = 1e-12


def smoothing_window(height: int, width: int) -> int:
    """Side in pixels of the window that suits images of this size; 1 does not smooth."""
    return max(1, round(SMOOTH * min(height, width)))


def render(explanation: Explanation, images: Images, smooth: int | None = None) -> RGBA:
    """A picture of each explanation, in [0, 1].

    Weights on six channels are drawn as the official B-cos code draws them. A weight on one of three channels is
    drawn like the same weight on the channel and its opposite on the complement, which differ by a constant. Methods
    without weights show the image where its contributions are positive.

    Args:
        explanation: one target for each image.
        images: what was explained, RGB in [0, 1].
        smooth: side of the window alpha is averaged over; by default :func:`smoothing_window`.
    """
    window = smoothing_window(*images.shape[2:]) if smooth is None else smooth
    weights, contributions = explanation.weights, explanation.contributions
    if weights is None:
        colours, strength = rgb(images), contributions.clamp(min=0)
    else:
        colours, strength = _colours(weights), torch.linalg.vector_norm(weights, dim=1)
    return torch.cat([colours, _alpha(strength, contributions, window)[:, None]], dim=1).movedim(1, 3)


def rgb(images: Images) -> Float[Tensor, "image 3 height width"]:
    """Images to look at: the first three channels, or the grey of those that have less."""
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def _colours(weights: Images) -> Float[Tensor, "image 3 height width"]:
    """Share of each channel in the weight on it and on its complement, positive parts alone."""
    if weights.shape[1] < 3:
        # Of grey images: each channel stands for three.
        weights = weights.repeat_interleave(3, dim=1)
    if weights.shape[1] == 3:
        weights = torch.cat([weights, -weights], dim=1)
    scaled = weights / (weights.abs().amax(dim=1, keepdim=True) + ZERO)
    wanted, unwanted = scaled.clamp(min=0).chunk(2, dim=1)
    return wanted / (wanted + unwanted + ZERO)


def _alpha(strength: Maps, contributions: Maps, window: int) -> Maps:
    alpha = torch.where(contributions < 0, strength.clamp(max=ZERO), strength)
    if window > 1:
        # An even window has its middle between pixels; it reaches one pixel further to the right and below.
        before, after = (window - 1) // 2, window // 2
        padded = F.pad(alpha[:, None], (before, after, before, after))
        # One direction after the other: 2 * window reads for each pixel instead of window^2.
        alpha = F.avg_pool2d(F.avg_pool2d(padded, (window, 1), stride=1), (1, window), stride=1)[:, 0]
    opaque = torch.quantile(alpha.flatten(1), ALPHA_QUANTILE, dim=1).view(-1, 1, 1)
    return (alpha / opaque.clamp(min=ZERO)).clamp(0, 1)
