"""Logits less what they are compared with: what speaks for one class and not for another.

The map of one text says little where all texts are close to one another. Contributions to a difference of logits sum to
the difference, and a constant that all logits share is in none.
"""

from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Logits
from robustbench_bcos.explanations import CONTRASTS, contrast_named


class Contrasted(nn.Module):
    """A network whose outputs are the differences; the largest stays the largest.

    Args:
        network: from encoded images to logits.
        contrast: name of what these are compared with.

    Raises:
        RequestError: there is no such contrast.
    """

    def __init__(self, network: nn.Module, contrast: str) -> None:
        super().__init__()
        self.network = network
        self.compared_with = CONTRASTS[contrast_named(contrast)]

    def forward(self, encoded: Tensor) -> Logits:
        """Encoded images to differences of logits."""
        logits: Tensor = self.network(encoded)
        if logits.shape[1] < 2:
            raise RequestError("a contrast needs two classes and this model has one: leave contrast out")
        differences: Tensor = logits - self.compared_with(logits)
        return differences
