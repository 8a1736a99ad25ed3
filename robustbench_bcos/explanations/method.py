"""The interface of explanation methods: from a network and encoded images to contributions."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

from torch import nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Logits
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.second_derivatives import Attached


class AbstractMethod(ABC):
    """A way of explaining logits; a new one is registered in ``METHODS``."""

    name: ClassVar[str]

    differentiates: ClassVar[bool] = True
    """Whether it takes gradients of the network."""

    of_modules: ClassVar[bool] = True
    """Whether its maps depend on which modules a network is made of, and not on what it computes alone. Of other
    methods a folded copy, which is faster, has the same maps up to rounding."""

    def preference(self, network: nn.Module) -> int:
        """How much ``auto`` prefers this method for a network: 0 never, 1 for want of a better one, 2 made for it."""
        return 0

    def check(self, network: nn.Module) -> None:  # noqa: B027 (most methods need nothing)
        """Look for what the method needs.

        Raises:
            RequestError: the network does not have it.
        """

    @final
    def __call__(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        """Attribute the targets' logits to positions.

        Args:
            network: frozen; it is left as it is.
            encoded: what its first layer takes; it is left as it is.
            targets: classes to explain, several for each image; by default the largest logit of each.
            rng: the only source of randomness.

        Raises:
            RequestError: the method cannot explain this network.
        """
        self.check(network)
        return self._attribute(network, encoded, targets, rng)

    @abstractmethod
    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        """Explain several targets of each image, (image, target, ...)."""


class AbstractAttachableMethod(AbstractMethod):
    """A method whose maps can be differentiated by the image, so that they can be attacked."""

    points: ClassVar[int] = 1
    """Images that the network is shown for each map, where that is differentiated."""

    @abstractmethod
    def attached(self, network: nn.Module, encoded: Images) -> Attached:
        """Logits, and the map of the class predicted, as functions of the image: their gradients are those of maps.

        Whatever the method holds constant is a part of the function here. The values are those of a call, up to
        rounding.

        Args:
            network: frozen.
            encoded: requires a gradient, and may be in the graph of an image.
        """


def largest(logits: Logits) -> Targets:
    """The target of an image for which none is given."""
    return logits.argmax(dim=1, keepdim=True)
