"""What a kind of conventional layer becomes in a B-cos network."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn


class AbstractConverter(ABC):
    """Makes the B-cos counterpart of a kind of layer; a new one is registered in ``CONVERTERS``.

    With B = 1 and its biases, the counterpart computes what the layer does in evaluation mode. It may be built around
    the layer, which is a copy of the user's, and keeps what the layer shares with others. Until the conversion is over,
    weights are the user's own: nothing is written into them, and what changes is made anew.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ()
    """Classes whose ``forward`` it knows, as MODULE.CLASS, so that none of them is imported for it."""
    bases: ClassVar[tuple[type[nn.Module], ...]] = ()
    """Classes whose subclasses it takes, if their ``forward`` is none that any converter knows."""

    @abstractmethod
    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """The counterpart.

        Args:
            layer: to convert.
            path: its name in the network.
            b: the exponent.

        Raises:
            RequestError: this layer cannot be converted.
        """

    def biases(self, converted: nn.Module) -> list[tuple[nn.Module, str]]:
        """Parameters of the counterpart that are dropped with the biases, by the module that has them."""
        return [(module, "bias") for module in converted.modules() if module._parameters.get("bias") is not None]


def forward_of(kind: type[nn.Module]) -> str:
    """The class that a class's ``forward`` is defined in, as MODULE.CLASS."""
    defining = next(base for base in kind.__mro__ if "forward" in base.__dict__)
    return f"{defining.__module__}.{defining.__qualname__}"
