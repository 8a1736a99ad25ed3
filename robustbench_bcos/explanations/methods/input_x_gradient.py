"""Gradient times input."""

from contextlib import nullcontext, suppress
from typing import final

import torch
from torch import nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractAttachableMethod, largest
from robustbench_bcos.explanations.second_derivatives import Attached, gradient_times_input
from robustbench_bcos.explanations.several_targets import ConvolutionsTogether, gradients_together

MANY = 4
"""Targets of an image, from which on their gradients are taken together; of fewer it is no faster."""

SMALL = 128 * 128
"""Pixels of images up to which they are: of larger ones they leave a processor's cache together, and take up to 2.5
times as long as one by one (EfficientNet-Lite0, 384x384, nine targets)."""


@final
@METHODS.registered("input_x_gradient")
class InputXGradient(AbstractAttachableMethod):
    """Gradient of the logit times the encoded image (Shrikumar et al., 2017).

    It is to a conventional network what dynamic weights are to a B-cos network: the linear map applied near this image.
    """

    of_modules = False

    def preference(self, network: nn.Module) -> int:
        """For networks that have no method of their own."""
        return 1

    def attached(self, network: nn.Module, encoded: Images) -> Attached:
        """The product, summed over channels."""
        return gradient_times_input(network, encoded)

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        many = targets is not None and targets.shape[1] >= MANY and encoded.shape[2:].numel() <= SMALL
        order = torch.channels_last if many else torch.preserve_format
        leaf = encoded.detach().clone(memory_format=order).requires_grad_()
        with torch.enable_grad(), ConvolutionsTogether() if many else nullcontext():
            logits = network(leaf)
        chosen = largest(logits.detach()) if targets is None else targets
        explained = logits.gather(1, chosen)
        weights = None
        if many:
            with suppress(RuntimeError):  # Operations of somebody's own cannot always be batched.
                weights = gradients_together(explained, leaf)
        if weights is None:
            rows = [torch.autograd.grad(logit.sum(), leaf, retain_graph=True)[0] for logit in explained.unbind(dim=1)]
            weights = torch.stack(rows, dim=1)
        contributions = (weights * encoded.detach()[:, None]).sum(dim=2)
        return Explanation(weights=weights, contributions=contributions, logits=logits.detach(), targets=chosen)
