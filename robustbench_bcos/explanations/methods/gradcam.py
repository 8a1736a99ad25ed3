"""Grad-CAM."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Maps
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractAttachableMethod, largest
from robustbench_bcos.explanations.second_derivatives import Attached, largest_of
from robustbench_bcos.model_zoo.bcos.layers import UnitConv2d


@final
@METHODS.registered("gradcam")
class GradCAM(AbstractAttachableMethod):
    """Positive part of the last feature maps weighted by their mean gradients (Selvaraju et al., 2017).

    Enlarged to the image bilinearly. It needs feature maps of more than one position.
    """

    def attached(self, network: nn.Module, encoded: Images) -> Attached:
        """The same steps, written out."""
        features: list[Tensor] = []
        hook = last_feature_maps(network, encoded).register_forward_hook(lambda *call: features.append(call[2]))
        try:
            logits = network(encoded)
        finally:
            hook.remove()
        return Attached(logits, _weighted(features[-1], largest_of(logits).sum(), encoded))

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        features: list[Tensor] = []

        def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
            """Gradients end at the feature maps, so that nothing before them is kept, and targets share one pass."""
            features.append(output.detach().requires_grad_())
            return features[-1].clone()  # The next layer may work in place.

        hook = last_feature_maps(network, encoded).register_forward_hook(cut)
        try:
            with torch.enable_grad():
                logits = network(encoded.detach())
                chosen = largest(logits.detach()) if targets is None else targets
                scores = logits.gather(1, chosen).sum(dim=0).unbind()
        finally:
            hook.remove()
        with torch.no_grad():  # Nothing is kept for second derivatives.
            maps = [_weighted(features[-1], score, encoded) for score in scores]
        return Explanation(weights=None, contributions=torch.stack(maps, dim=1), logits=logits.detach(), targets=chosen)


def _weighted(features: Tensor, score: Tensor, encoded: Images) -> Maps:
    """The positive part of feature maps weighted by the mean gradient of a sum of logits, as large as images."""
    (gradients,) = torch.autograd.grad(
        score, features, retain_graph=True, create_graph=torch.is_grad_enabled(), materialize_grads=True
    )
    coarse = (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True).clamp(min=0)
    return F.interpolate(coarse, tuple(encoded.shape[2:]), mode="bilinear").squeeze(1)


def last_feature_maps(network: nn.Module, encoded: Images) -> nn.Module:
    """The last module that gives maps of more than one position, maps of classes not counted.

    Raises:
        RequestError: the network has no such module.
    """
    outputs: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and math.prod(output.shape[2:]) > 1:
            outputs.append((module, tuple(output.shape)))

    hooks = [module.register_forward_hook(note) for module in network.modules() if not isinstance(module, UnitConv2d)]
    try:
        with torch.no_grad():
            classes = network(encoded[:1]).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    features = [module for module, shape in outputs if shape[1] != classes]
    if not features:
        raise RequestError("gradcam needs feature maps and this network has none: choose integrated_gradients, say")
    return features[-1]
