"""Explanations by one forward pass and one backward pass per target: dynamic weights, and input x gradient."""

import torch
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations.attribution import Attribution, Targets, largest
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.layers import is_bcos


def dynamic_weights(
    network: nn.Module, encoded: Images, targets: Targets | None, generator: PerImageRng
) -> Attribution:
    """Rows of the linear map W(x) that a B-cos network applied (Böhle et al., 2022, eq. 13).

    Contributions sum to the target's logit less the logit bias wherever the network adds no other constant; see
    :func:`~robustbench_bcos.explanations.completeness.additive_constants`.

    Raises:
        RequestError: the network has no dynamic layers.
    """
    if not is_bcos(network):
        raise RequestError(
            "dynamic_weights explains B-cos networks and this one is conventional: choose input_x_gradient, say"
        )
    with explanation_mode(network):
        return input_x_gradient(network, encoded, targets, generator)


def input_x_gradient(
    network: nn.Module, encoded: Images, targets: Targets | None, generator: PerImageRng
) -> Attribution:
    """Gradient of the logit times the encoded image (Shrikumar et al., 2017).

    It is to a conventional network what dynamic weights are to a B-cos network: the linear map applied near this image.
    """
    leaf = encoded.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = network(leaf)
        chosen = largest(logits.detach()) if targets is None else targets
        explained = logits.gather(1, chosen).unbind(dim=1)
        rows = [torch.autograd.grad(logit.sum(), leaf, retain_graph=True)[0] for logit in explained]
    weights = torch.stack(rows, dim=1)
    return Attribution(weights, (weights * encoded.detach()[:, None]).sum(dim=2), logits.detach(), chosen)
