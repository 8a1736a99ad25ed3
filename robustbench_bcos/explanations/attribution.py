"""What every method of explanation takes and gives, below the level of models and images."""

from typing import NamedTuple, Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Logits

Targets = Int[Tensor, "image target"]
"""Several logits to explain for each image."""


class Attribution(NamedTuple):
    """Why each target's logit is what it is."""

    weights: Float[Tensor, "image target channel height width"] | None
    """What each encoded value is multiplied with; ``None`` for methods that have no such thing."""
    contributions: Float[Tensor, "image target height width"]
    """Signed share of each position, summed over channels."""
    logits: Logits
    targets: Targets


class Method(Protocol):
    """A way of explaining logits.

    ``encoded`` is what the network's first layer takes, and is left as it is; without targets the largest logit of each
    image is explained; ``generator`` is the only source of randomness.

    Raises:
        RequestError: the method cannot serve this network.
    """

    def __call__(
        self, network: nn.Module, encoded: Images, targets: Targets | None, generator: PerImageRng
    ) -> Attribution:
        """Attribute the targets' logits to positions."""
        ...


def largest(logits: Logits) -> Targets:
    """The target of an image for which none is given."""
    return logits.argmax(dim=1, keepdim=True)
