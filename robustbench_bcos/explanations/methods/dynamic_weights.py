"""Dynamic weights of B-cos networks."""

from typing import final

from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractAttachableMethod
from robustbench_bcos.explanations.methods.input_x_gradient import InputXGradient
from robustbench_bcos.explanations.second_derivatives import Attached, gradient_times_input
from robustbench_bcos.model_zoo.bcos.explanation_mode import Gates, explanation_mode
from robustbench_bcos.model_zoo.bcos.layers import is_bcos


@final
@METHODS.registered("dynamic_weights")
class DynamicWeights(AbstractAttachableMethod):
    """Rows of the linear map W(x) that a B-cos network applied (Böhle et al., 2022, eq. 13).

    Contributions sum to the target's logit less the logit bias wherever the network adds no other constant; see
    :func:`~robustbench_bcos.explanations.completeness.additive_constants`.
    """

    of_modules = False

    def preference(self, network: nn.Module) -> int:
        """For B-cos networks, ours and the official ones."""
        return 2 if is_bcos(network) else 0

    def check(self, network: nn.Module) -> None:
        """Dynamic layers are needed."""
        if not is_bcos(network):
            raise RequestError(
                "dynamic_weights explains B-cos networks and this one is conventional: choose input_x_gradient, say"
            )

    def attached(self, network: nn.Module, encoded: Images) -> Attached:
        """With scales that are held for the weights, and vary with the image from then on."""
        gates = Gates()
        with explanation_mode(network, gates):
            found = gradient_times_input(network, encoded)
        gates.release()
        return found

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        with explanation_mode(network):
            return InputXGradient()(network, encoded, targets, rng)
