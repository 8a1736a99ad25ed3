"""DeepLIFT."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractMethod
from robustbench_bcos.explanations.methods._post_hoc import weights_times_input
from robustbench_bcos.model_zoo.bcos.layers import is_bcos

UNEXPLAINED = 0.01
"""Share of the change of a logit that may stay unattributed before the method counts as not applicable."""


@final
@METHODS.registered("deeplift")
class DeepLift(AbstractMethod):
    """Multipliers of the rescale rule, against 0 (Shrikumar et al., 2017), times the encoded image.

    The rule does not see functions that are not modules, modules that are used twice and pooling whose windows
    overlap. Networks that have these are refused: their contributions do not sum to the change of the logit.
    """

    def check(self, network: nn.Module) -> None:
        """No layers may be B-cos layers."""
        if is_bcos(network):
            raise RequestError("deeplift has no rule for B-cos layers: choose dynamic_weights or integrated_gradients")

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        from captum import attr

        deeplift = attr.DeepLift(network, multiply_by_inputs=False)

        def multipliers(target: Tensor) -> Tensor:
            with _captum_refusals(), _inputs_of_their_own(network):
                found: Tensor = deeplift.attribute(encoded.detach().clone().requires_grad_(), target=target)
            return found.detach()

        explanation = weights_times_input(network, encoded, targets, multipliers)
        with torch.no_grad():
            change = (explanation.logits - network(torch.zeros_like(encoded))).gather(1, explanation.targets)
        missing = (explanation.contributions.sum(dim=(2, 3)) - change).abs()
        if (missing > UNEXPLAINED * explanation.logits.abs().amax(dim=1, keepdim=True)).any():
            raise RequestError(
                "deeplift does not see all nonlinearities of this network (functions, modules used twice, or pooling "
                "whose windows overlap): choose integrated_gradients, say"
            )
        return explanation


@contextmanager
def _inputs_of_their_own(network: nn.Module) -> Iterator[None]:
    """Let no two layers that have rules share a tensor, as pooling shares the output of a ReLU.

    captum keeps the gradient behind a layer by a hook on its output. On a tensor that is the next layer's input too,
    this hook runs before the one by which the next layer's rule replaces the gradient.
    """

    def copies(_: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)

    # Layers that have rules are among those without layers and parameters of their own.
    leaves = [layer for layer in network.modules() if not [*layer.children(), *layer.parameters()]]
    handles = [layer.register_forward_pre_hook(copies) for layer in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _captum_refusals() -> Iterator[None]:
    """Turn captum's assertions about a network into a request that can be changed."""
    try:
        with warnings.catch_warnings():
            # captum warns that it puts hooks on the network, which it takes off again.
            warnings.filterwarnings("ignore", message="Setting forward, backward hooks", category=UserWarning)
            yield
    except (AssertionError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(f"deeplift cannot serve this network ({reason}): choose integrated_gradients, say") from None
