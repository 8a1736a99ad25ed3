"""What methods have in common that explain any network after the fact, by captum (Kokhlikyan et al., 2020).

All attribute to the encoded image, which is what the network computes with, and sum over its channels. What stands
for an absent value is 0 in that space: black without an encoding, the mean colour behind ``normalize``, and no colour
at all behind ``add_inverse``, where black is (0, 0, 0, 1, 1, 1). captum takes seconds to import, so methods import it
when they are called.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_bcos.core.types import Images, Logits
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import largest

TOGETHER = 64
"""Images of up to 224x224 pixels that a network is shown at a time, by methods that show it many variants of one."""


def shown_together(encoded: Images) -> int:
    """How many variants of an image are shown at a time: of large images fewer, so that memory stays bounded."""
    height, width = encoded.shape[2:]
    return max(1, min(TOGETHER, TOGETHER * 224 * 224 // (height * width)))


def logits_and_targets(network: nn.Module, encoded: Images, targets: Targets | None) -> tuple[Logits, Targets]:
    """The network's logits, and the targets that were given or else the largest."""
    with torch.no_grad():
        logits = network(encoded)
    return logits, largest(logits) if targets is None else targets


def weights_times_input(
    network: nn.Module, encoded: Images, targets: Targets | None, weights_of: Callable[[Tensor], Tensor]
) -> Explanation:
    """An explanation whose contributions are weights times encoded values.

    Args:
        network: what is explained.
        encoded: what it takes.
        targets: classes to explain.
        weights_of: takes a class for each image, and gives weights of the shape of ``encoded``.
    """
    logits, chosen = logits_and_targets(network, encoded, targets)
    weights = torch.stack([weights_of(target).to(encoded) for target in chosen.unbind(dim=1)], dim=1)
    contributions = (weights * encoded.detach()[:, None]).sum(dim=2)
    return Explanation(weights=weights, contributions=contributions, logits=logits, targets=chosen)
