"""Plans for networks made by hand, in memory: what is measured of them can be worked out on paper."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from robustbench_bcos.bench.plan import Plan
from torch import Tensor, nn

from robustbench_bcos.bench.cells import make_cells
from robustbench_bcos.bench.config import make_config
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import LoadedModel, own_model

SHAPE = (3, 4, 5)


def own_plan(networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor, classes: int, **flags: Any) -> Plan:
    """Networks by name; nothing is checked, explained or drawn unless it is asked for."""
    config = make_config({"device": "cpu", "figures": False, "evidence": "off"} | flags)
    sources = tuple(LoadedModel(own_model(name, freeze(network))) for name, network in networks.items())
    chosen = EvalSubset.of(InMemory(images, labels, classes=classes))
    weights = {source.name: source.model.weights_sha256 for source in sources}
    return Plan(config, chosen, sources, weights, tuple(make_cells(config, list(networks))), "cpu")


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
    """Size of the smallest delta within the pixel box that reaches the plane; infinite where none does.

    It is a direction cut off at the box, as far along as is needed: along the normal for l2, along its signs for linf.
    """
    pixels, normal = image.astype(np.float64).ravel(), network.normal.numpy().astype(np.float64)
    needed = -(pixels @ normal + network.offset)
    normal, needed = np.sign(needed) * normal, abs(needed)
    direction = normal if norm == "l2" else np.sign(normal)

    def delta(length: float) -> NDArray[np.float64]:
        return np.clip(length * direction, -pixels, 1 - pixels)

    near, far = 0.0, 1e6
    if delta(far) @ normal < needed:
        return float("inf")
    for _ in range(200):
        middle = (near + far) / 2
        near, far = (near, middle) if delta(middle) @ normal >= needed else (middle, far)
    return float(np.linalg.norm(delta(far), ord={"l2": 2, "linf": np.inf}[norm]))
