"""What can be proved of a batch of images, or why nothing can."""

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.certificates.certifier import CannotBound, Certifier
from robustbench_bcos.core.rounding import rounded_down
from robustbench_bcos.core.types import Images


class Proofs:
    """Of the networks of a stage, each of which is looked into once."""

    def __init__(self) -> None:
        self._certifiers: dict[nn.Module, Certifier | None] = {}

    def radii(self, target: AttackTarget) -> Sequence[float | None]:
        """A radius for each image, of which the model is right, within which no perturbation changes the prediction.

        To 6 significant digits, and no larger than was proved; ``None`` where nothing can be proved.
        """
        certifier = self._certifier(target.classifier) if target.criterion.misclassifies else None
        if certifier is not None and _has_float64(target.images):
            with suppress(CannotBound):
                radii = certifier.radii(target.images, target.labels, target.threat.geometry).tolist()
                return [None if math.isnan(radius) else rounded_down(radius) for radius in radii]
        return [None] * len(target.images)

    def _certifier(self, classifier: nn.Module) -> Certifier | None:
        if classifier not in self._certifiers:
            self._certifiers[classifier] = None
            with suppress(CannotBound):
                self._certifiers[classifier] = Certifier(classifier)
        return self._certifiers[classifier]


def why_uncertified(classifier: nn.Module, images: Images) -> str:
    """Why nothing can be proved of a model, as a sentence; empty where something can."""
    if not _has_float64(images):
        return f"the device {images.device.type} has no float64, in which bounds are computed: use --device cpu"
    try:
        radii = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        with torch.no_grad():
            Certifier(classifier).bound(images, radii, NORMS["l2"])
    except CannotBound as error:
        return str(error)
    return ""


def _has_float64(images: Images) -> bool:
    return images.device.type != "mps"
