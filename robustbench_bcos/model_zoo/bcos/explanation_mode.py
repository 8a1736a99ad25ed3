"""The switch that turns a B-cos network's gradient into its dynamic weights.

In explanation mode each dynamic layer treats its input-dependent scale as a constant, so that the gradient of a logit
is the row of the linear map W(x) that produced it (Böhle et al., 2022, eq. 13); the logits do not change.
Never run an attack inside it: its gradient is not that of the network.

How W(x) itself changes with x is another matter: there the scales count. :class:`Gates` keeps them in the graph.

The set of explained layers is a context variable and not a flag on the layer: leaving an inner ``with`` restores the
outer one, an exception cannot leave it on, other threads and other models are not affected.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_explained: ContextVar[frozenset[int]] = ContextVar("explained_layers", default=frozenset())


class Gates:
    """The scales of one forward pass: constants of the first derivative, and variables of every later one.

    Attributes:
        held: whether no gradient passes through them. It is looked up when a backward pass meets a scale, and not kept
            by thread, since GPUs have backward passes of their own.
    """

    def __init__(self) -> None:
        self.held = True

    def release(self) -> None:
        """From now on gradients pass."""
        self.held = False

    def hold(self, scale: Tensor) -> Tensor:
        """The scale, through which a gradient passes once the gates are released."""
        gated: Tensor = _Gate.apply(scale, self)
        return gated


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor, gates: Gates) -> Tensor:  # noqa: ANN401
        ctx.gates = gates
        ctx.set_materialize_grads(False)
        return scale.view_as(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:  # noqa: ANN401
        return (None if ctx.gates.held else gradient), None


_gates: ContextVar[Gates | None] = ContextVar("gates", default=None)


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

    @property
    def detaching(self) -> bool:
        """Whether scales are cut from the graph for good, so that nothing of them has to be remembered."""
        return self.explaining and detaching()

    def as_constant(self, scale: Tensor) -> Tensor:
        """The scale, cut from the graph in explanation mode, or held by the gates that it was entered with."""
        return held(scale) if self.explaining else scale


def held(scale: Tensor) -> Tensor:
    """A scale as it is in the explanation mode of the current thread or task: see :meth:`DynamicLayer.as_constant`."""
    gates = _gates.get()
    return scale.detach() if gates is None else gates.hold(scale)


def detaching() -> bool:
    """Whether that cuts scales from the graph for good."""
    return _gates.get() is None


OFFICIAL_SWITCH = "set_explanation_mode"
"""Method of the official B-cos package's layers, which sets a flag on the layer that other threads see, too."""


def official_layers(model: nn.Module) -> list[nn.Module]:
    """Dynamic layers of the official package."""
    return [module for module in model.modules() if hasattr(module, OFFICIAL_SWITCH)]


class _Attached(TorchFunctionMode):
    """Holds by gates what layers of the official package detach."""

    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self.gates = gates

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        return self.gates.hold(args[0]) if func is Tensor.detach else func(*args, **(kwargs or {}))


@contextmanager
def explanation_mode(model: nn.Module, gates: Gates | None = None) -> Iterator[None]:
    """Explain ``model`` inside the ``with``; nests, and covers layers swapped in before it was entered.

    Layers of the official package are switched, too, and restored afterwards.

    Args:
        model: its dynamic layers are those that are explained.
        gates: hold the scales, which are detached without them.
    """
    switched = [layer for layer in official_layers(model) if not getattr(layer, "is_in_explanation_mode", False)]
    # The list keeps the layers alive, so that no new layer can be given the identity of one of them.
    layers = [module for module in model.modules() if isinstance(module, DynamicLayer)]
    token = _explained.set(_explained.get().union(map(id, layers)))
    held = _gates.set(gates)
    attached = nullcontext() if gates is None or not official_layers(model) else _Attached(gates)
    try:
        _switch(switched, on=True)
        with attached:
            yield
    finally:
        _switch(switched, on=False)
        _gates.reset(held)
        _explained.reset(token)


def _switch(layers: list[nn.Module], *, on: bool) -> None:
    for layer in layers:
        getattr(layer, OFFICIAL_SWITCH)(on)
