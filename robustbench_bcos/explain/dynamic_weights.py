"""The linear map a B-cos network applied to an image, one row for each logit asked for."""

from typing import NamedTuple

import torch
from torch import nn

from robustbench_bcos.core.types import Images, Labels, Logits
from robustbench_bcos.model_zoo.explanation_mode import explanation_mode


class DynamicWeights(NamedTuple):
    """Rows of W(x) for encoded images x."""

    weights: Images
    """Row of W(x) that made the target's logit, in the shape of the encoded image."""
    targets: Labels
    """The logit each row explains."""
    logits: Logits


def dynamic_weights(network: nn.Module, encoded: Images, targets: Labels | None = None) -> DynamicWeights:
    """Rows of the dynamic linear map (Böhle et al., 2022, eq. 13), for a whole batch in one backward pass.

    Where the network adds no constant but its logit bias, ``(weights * encoded).sum((1, 2, 3))`` is the target's logit
    without that bias.

    Args:
        network: a frozen B-cos network without its encoding.
        encoded: what its encoding gives; left as it is.
        targets: which logit to explain; by default the largest.
    """
    leaf = encoded.detach().clone().requires_grad_()
    with explanation_mode(network), torch.enable_grad():
        logits = network(leaf)
        chosen = logits.argmax(dim=1) if targets is None else targets
        (weights,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
    return DynamicWeights(weights, chosen, logits.detach())
