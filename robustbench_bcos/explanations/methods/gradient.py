"""The gradient itself."""

from typing import final

from torch import nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractAttachableMethod
from robustbench_bcos.explanations.methods.input_x_gradient import InputXGradient
from robustbench_bcos.explanations.second_derivatives import Attached, gradient_of_largest


@final
@METHODS.registered("gradient")
class Gradient(AbstractAttachableMethod):
    """Gradient of the logit, its signed sum over channels (Simonyan et al., 2014, take the largest magnitude instead).

    Behind ``add_inverse`` a channel and its complement are summed as they are: brighter and darker cancel.
    """

    of_modules = False

    def attached(self, network: nn.Module, encoded: Images) -> Attached:
        """The gradient, summed over channels."""
        logits, weights = gradient_of_largest(network, encoded)
        return Attached(logits, weights.sum(dim=1))

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        found = InputXGradient()(network, encoded, targets, rng)
        assert found.weights is not None
        return Explanation(
            weights=None, contributions=found.weights.sum(dim=2), logits=found.logits, targets=found.targets
        )
