"""The registry of architectures, and how one is built by name."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args, runtime_checkable

from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import Registry, unknown
from robustbench_bcos.model_zoo.architectures.layers import LayerFactory, bcos_layers, conventional_layers
from robustbench_bcos.model_zoo.bcos.norms import Affine

BCOS_PREFIX = "bcos_"

CONVENTIONAL_ARGUMENTS = ("norm", "norm_affine")
BCOS_ARGUMENTS = ("b", "max_out", "norm", "norm_affine", "logit_bias", "temperature")


@dataclass(frozen=True, kw_only=True)
class KeyLayers:
    """Where the tensors of an architecture say what it was built with. Names are those of modules."""

    first: str
    """The first layer, a convolution, or a linear layer on patches."""
    last: str
    """The classifier."""
    filters: int
    """Outputs of the first layer: MaxOut gives it a multiple of them."""
    norm: str | None = None
    """The first norm; the network has norms exactly where it has this one. ``None`` if nothing is to be read off it."""
    image_norm: str | None = None
    """What a norm without running statistics is taken for; ``None`` if it could be several and has to be named."""
    patch: int = 1
    """Pixels of an image that each row of a linear first layer sees."""


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and how to read its arguments from a checkpoint of it."""

    build: Callable[..., nn.Module]
    """Takes ``in_channels``, ``classes`` and the arguments below by keyword."""
    arguments: tuple[str, ...]
    """What a card or a command line may set."""
    layout: KeyLayers


ARCHITECTURES: Registry[Architecture] = Registry("architecture")


@runtime_checkable
class Backbone(Protocol):
    """Builds a network of whatever parts it is given."""

    def __call__(self, parts: LayerFactory, *, in_channels: int, classes: int) -> nn.Module:
        """Encoded images of ``in_channels`` channels to ``classes`` logits."""
        ...


def register_twins(
    name: str,
    skeleton: Backbone,
    layout: KeyLayers,
    *,
    bcos_layout: KeyLayers | None = None,
    conventional: Mapping[str, Any] | None = None,
    bcos: Mapping[str, Any] | None = None,
    fixed: Collection[str] = (),
) -> None:
    """Register a conventional network and its B-cos twin.

    Args:
        name: of the conventional one.
        skeleton: what both share.
        layout: where their checkpoints say what they were built with.
        bcos_layout: the B-cos network's, where its layers have other names.
        conventional: defaults of :func:`conventional_layers` that are this family's own.
        bcos: defaults of :func:`bcos_layers` that are this family's own.
        fixed: arguments that this family does not leave open.
    """

    def build_conventional(*, in_channels: int, classes: int, **arguments: Any) -> nn.Module:  # noqa: ANN401
        parts = conventional_layers(**{**(conventional or {}), **arguments})
        return skeleton(parts, in_channels=in_channels, classes=classes)

    def build_bcos(*, in_channels: int, classes: int, **arguments: Any) -> nn.Module:  # noqa: ANN401
        parts = bcos_layers(classes=classes, **{**(bcos or {}), **arguments})
        return skeleton(parts, in_channels=in_channels, classes=classes)

    left, bcos_left = (
        tuple(argument for argument in arguments if argument not in fixed)
        for arguments in (CONVENTIONAL_ARGUMENTS, BCOS_ARGUMENTS)
    )
    ARCHITECTURES.register(name, Architecture(build_conventional, left, layout))
    ARCHITECTURES.register(f"{BCOS_PREFIX}{name}", Architecture(build_bcos, bcos_left, bcos_layout or layout))


def build_architecture(name: str, *, in_channels: int, classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """An architecture with uninitialised weights of its checkpoint's names and shapes.

    Raises:
        RequestError: unknown architecture, or an argument it does not take.
    """
    architecture = ARCHITECTURES[name]
    for key in arguments:
        if key not in architecture.arguments:
            taken = ", ".join(architecture.arguments) or "none"
            raise RequestError(f"architecture {name!r} takes no argument {key!r}: it takes {taken}")
    affine = arguments.get("norm_affine", "full")
    if affine not in get_args(Affine):
        raise unknown("norm_affine", str(affine), get_args(Affine))
    try:
        return architecture.build(in_channels=in_channels, classes=classes, **arguments)
    except TypeError as error:
        raise RequestError(f"architecture {name!r} cannot be built with {dict(arguments)}: {error}") from None
