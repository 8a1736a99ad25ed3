"""Requests for networks made by hand, in memory: what is measured of them can be worked out on paper."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.request import Request, check_request
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import LoadedModel, own_model

SHAPE = (3, 4, 5)


def own_request(
    networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor, classes: int, **flags: Any
) -> Request:
    """Networks by name; nothing is explained, drawn or doubted unless it is asked for."""
    quiet = {"device": "cpu", "figures": False, "evidence": "off", "skip_model_checks": True}
    sources = [LoadedModel(own_model(name, freeze(network))) for name, network in networks.items()]
    return check_request(make_config(quiet | flags), EvalSubset.of(InMemory(images, labels, classes=classes)), sources)


class TwoSides(nn.Module):
    """Two classes, on either side of a plane."""

    def __init__(self, normal: NDArray[np.float64], offset: float) -> None:
        super().__init__()
        self.normal = torch.from_numpy(normal).float()
        self.offset = offset

    def forward(self, images: Tensor) -> Tensor:
        # Image by image, so that no sum depends on the batch.
        sides = torch.stack([(image.flatten() * self.normal).sum() for image in images]) + self.offset
        return torch.stack([-sides, sides], dim=1)


def distance_to_the_plane(image: NDArray[np.float64], network: TwoSides, norm: str) -> float:
    """Size of the smallest perturbation within the pixel box that reaches the plane; infinite where none does."""
    pixels, normal = image.astype(np.float64).ravel(), network.normal.numpy().astype(np.float64)
    needed = -(pixels @ normal + network.offset)
    normal, needed = np.sign(needed) * normal, abs(needed)
    room = np.where(normal > 0, 1 - pixels, pixels)
    if room @ np.abs(normal) < needed:
        return float("inf")
    if norm == "l1":
        # The steepest pixel values first, each as far as the box allows, until no more is needed.
        order = np.argsort(-np.abs(normal))
        room, slopes = room[order], np.abs(normal[order])
        before = np.concatenate([[0], np.cumsum(room * slopes)[:-1]])
        return float(np.sum(np.clip((needed - before) / slopes, 0, room)))
    # A direction cut off at the box, as far along as is needed: the normal for l2, its signs for linf.
    direction = normal if norm == "l2" else np.sign(normal)

    def perturbation(length: float) -> NDArray[np.float64]:
        return np.clip(length * direction, -pixels, 1 - pixels)

    near, far = 0.0, 1e6
    for _ in range(200):
        middle = (near + far) / 2
        near, far = (near, middle) if perturbation(middle) @ normal >= needed else (middle, far)
    return float(np.linalg.norm(perturbation(far), ord={"l2": 2, "linf": np.inf}[norm]))
