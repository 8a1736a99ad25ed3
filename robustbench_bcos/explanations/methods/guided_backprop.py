"""Guided backpropagation."""

import warnings
from typing import final

import torch
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractMethod
from robustbench_bcos.explanations.methods._post_hoc import logits_and_targets


@final
@METHODS.registered("guided_backprop")
class GuidedBackprop(AbstractMethod):
    """Gradient of the logit with only what is positive passed back through each ReLU (Springenberg et al., 2015).

    Its sum over channels. ReLUs that are functions and not modules are not seen, and pass everything back.
    """

    def check(self, network: nn.Module) -> None:
        """Modules that are ReLUs are needed: what the method changes is their gradient."""
        if not any(isinstance(module, nn.ReLU) for module in network.modules()):
            raise RequestError(
                "guided_backprop changes the gradient of ReLUs and this network has no such modules: choose gradient, "
                "say"
            )

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        from captum import attr

        logits, chosen = logits_and_targets(network, encoded, targets)
        guided, maps = attr.GuidedBackprop(network), []
        with warnings.catch_warnings():
            # captum warns that it puts hooks on the network, which it takes off again.
            warnings.filterwarnings("ignore", message="Setting backward hooks", category=UserWarning)
            for target in chosen.unbind(dim=1):
                gradient = guided.attribute(encoded.detach().clone().requires_grad_(), target=target)
                maps.append(gradient.sum(dim=1).detach())
        return Explanation(weights=None, contributions=torch.stack(maps, dim=1), logits=logits, targets=chosen)
