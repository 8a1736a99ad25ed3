"""The switch that turns a B-cos network's gradient into its dynamic weights.

In explanation mode each dynamic layer treats its input-dependent scale as a constant, so that the gradient of a logit
is the row of the linear map W(x) that produced it (Böhle et al., 2022, eq. 13); the logits do not change.
Never run an attack inside it: its gradient is not that of the network.

The set of explained layers is a context variable and not a flag on the layer: leaving an inner ``with`` restores the
outer one, an exception cannot leave it on, other threads and other models are not affected.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

_explained: ContextVar[frozenset[int]] = ContextVar("explained_layers", default=frozenset())


class DynamicLayer(nn.Module):
    """A layer whose output is its input times a scale that depends on the input.

    Attributes:
        linearised: whether the scale is always a constant, also outside explanation mode.
    """

    linearised = False

    @property
    def explaining(self) -> bool:
        """Whether this layer is inside an :func:`explanation_mode` of the current thread or task."""
        return self.linearised or id(self) in _explained.get()

    def as_constant(self, scale: Tensor) -> Tensor:
        """The scale, cut from the graph in explanation mode."""
        return scale.detach() if self.explaining else scale


OFFICIAL_SWITCH = "set_explanation_mode"
"""Method of the official B-cos package's layers, which sets a flag on the layer that other threads see, too."""


def official_layers(model: nn.Module) -> list[nn.Module]:
    """Dynamic layers of the official package."""
    return [module for module in model.modules() if hasattr(module, OFFICIAL_SWITCH)]


@contextmanager
def explanation_mode(model: nn.Module) -> Iterator[None]:
    """Explain ``model`` inside the ``with``; nests, and covers layers swapped in before it was entered.

    Layers of the official package are switched, too, and restored afterwards.
    """
    switched = [layer for layer in official_layers(model) if not getattr(layer, "is_in_explanation_mode", False)]
    # The list keeps the layers alive, so that no new layer can be given the identity of one of them.
    layers = [module for module in model.modules() if isinstance(module, DynamicLayer)]
    token = _explained.set(_explained.get().union(map(id, layers)))
    try:
        _switch(switched, on=True)
        yield
    finally:
        _switch(switched, on=False)
        _explained.reset(token)


def _switch(layers: list[nn.Module], *, on: bool) -> None:
    for layer in layers:
        getattr(layer, OFFICIAL_SWITCH)(on)
