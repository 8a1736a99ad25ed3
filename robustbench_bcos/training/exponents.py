"""What exponents B that are learned minimise beside the loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.closed_form import COSINE_EPSILON
from robustbench_bcos.model_zoo.bcos.exponents import Exponent
from robustbench_bcos.model_zoo.bcos.layers import AbstractBcosLayer
from robustbench_bcos.training.recipes import LearnedB


def exponents_of(network: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters behind exponents, each once though layers share it."""
    return (module.raw for module in network.modules() if isinstance(module, Exponent))


class Exponents:
    """The exponents of a network in training.

    Args:
        network: in training.
        how: what they minimise beside the loss.
    """

    def __init__(self, network: nn.Module, how: LearnedB) -> None:
        self._layers = [one for one in network.modules() if isinstance(one, AbstractBcosLayer) and one.exponent]
        self._how = how
        self._alignments: list[Tensor] = []

    def range(self) -> tuple[float | None, float | None]:
        """The smallest and the largest; ``None`` where none is learned."""
        values = [layer.b for layer in self._layers]
        return min(values, default=None), max(values, default=None)

    def penalty(self) -> Tensor | float:
        """What is added to the loss; only exponents have a gradient of it."""
        if not self._layers or self._how.objective == "descent":
            return 0.0
        if self._how.objective == "minimax":
            # Between layers that are equally large the gradient is shared.
            values = torch.stack([layer.exponent() for layer in self._layers if layer.exponent is not None])
            return self._how.weight * values.amax()
        found, self._alignments = self._alignments, []
        return -self._how.weight * torch.stack(found).mean()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Measure the alignment of a forward pass, where that is what is asked for."""
        measured = self._layers if self._how.objective == "alignment" else []
        handles = [layer.linear.register_forward_hook(partial(self._measure, layer)) for layer in measured]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _measure(self, layer: AbstractBcosLayer, _: nn.Module, inputs: tuple[Tensor, ...], responses: Tensor) -> None:
        """Mean |cos| of a layer's outputs, each weighted by its size |x| |cos|^B, as a function of B alone."""
        assert layer.exponent is not None
        with torch.no_grad():
            norms = layer.norms(inputs[0])
            cosines = (layer.largest(responses) / norms).abs() + COSINE_EPSILON
        sizes = norms * cosines ** layer.exponent()
        self._alignments.append((sizes * cosines).sum() / sizes.sum())
