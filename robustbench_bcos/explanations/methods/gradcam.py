"""Grad-CAM."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractAttachableMethod
from robustbench_bcos.explanations.methods._post_hoc import logits_and_targets
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
        maps = features[-1]
        (gradients,) = torch.autograd.grad(
            largest_of(logits).sum(), maps, create_graph=torch.is_grad_enabled(), materialize_grads=True
        )
        coarse = (gradients.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True).clamp(min=0)
        fine = F.interpolate(coarse, tuple(encoded.shape[2:]), mode="bilinear")
        return Attached(logits, fine.squeeze(1))

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        from captum import attr

        gradcam = attr.LayerGradCam(network, last_feature_maps(network, encoded))
        logits, chosen = logits_and_targets(network, encoded, targets)
        maps = []
        for target in chosen.unbind(dim=1):
            coarse = gradcam.attribute(encoded.detach().clone(), target=target, relu_attributions=True)
            fine = attr.LayerAttribution.interpolate(coarse, tuple(encoded.shape[2:]), "bilinear")
            maps.append(fine.squeeze(1))
        return Explanation(weights=None, contributions=torch.stack(maps, dim=1).detach(), logits=logits, targets=chosen)


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
