"""The registry of architectures: how to add one, and how one is built by name."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args, runtime_checkable

from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import Registry, unknown
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.model_zoo.architectures.layers import LayerFactory, bcos_layers, conventional_layers
from robustbench_bcos.model_zoo.bcos.layers import learn_exponents
from robustbench_bcos.model_zoo.bcos.norms import Affine
from robustbench_bcos.model_zoo.cards import EncodingSpec, Family
from robustbench_bcos.model_zoo.registered import GROUP, check_arguments

BCOS_PREFIX = "bcos_"

CONVENTIONAL_ARGUMENTS = ("norm", "norm_affine")
BCOS_ARGUMENTS = ("b", "learn_b", "max_out", "norm", "norm_affine", "logit_bias", "temperature")


@dataclass(frozen=True, kw_only=True)
class KeyLayers:
    """The layers from whose tensors an architecture's arguments are inferred, by the names of their modules."""

    first: str
    """The first layer: a convolution, or a linear layer on patches."""
    last: str
    """The classifier."""
    filters: int
    """Outputs of the first layer without MaxOut, which multiplies them."""
    norm: str | None = None
    """The first norm layer, which a network without norms lacks; ``None`` if nothing is inferred about norms."""
    image_norm: str | None = None
    """The norm layer if it has no running statistics; ``None`` if several are possible, so that one must be named."""
    patch: int = 1
    """Pixels of an image that each row of a linear first layer sees."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a network, and how to infer its arguments from a checkpoint."""

    build: Callable[..., nn.Module]
    """Takes ``in_channels``, ``classes`` and the arguments below by keyword; gives encoded images to logits."""
    arguments: tuple[str, ...] = ()
    """Arguments that a card or a command line may set."""
    key_layers: KeyLayers
    family: Family = "conventional"
    encoding: EncodingSpec | None = None
    """That published weights were trained with, if it is not the usual one of the number of channels."""
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """Gives tensors of published files the names they have here."""

    @property
    def loss(self) -> TrainingLoss:
        """The loss that the family is usually trained with."""
        return TrainingLoss.BCE if self.family == "bcos" else TrainingLoss.CE


ARCHITECTURES: Registry[Architecture] = Registry("architecture", group=GROUP)


@runtime_checkable
class Backbone(Protocol):
    """Builds a network from the layers that a factory makes."""

    def __call__(self, make: LayerFactory, *, in_channels: int, classes: int) -> nn.Module:
        """Build a network from encoded images of ``in_channels`` channels to ``classes`` logits."""
        ...


def register_architecture(
    name: str,
    backbone: Backbone,
    key_layers: KeyLayers,
    *,
    families: Collection[Family] = get_args(Family),
    bcos_key_layers: KeyLayers | None = None,
    conventional: Mapping[str, Any] | None = None,
    bcos: Mapping[str, Any] | None = None,
    fixed: Collection[str] = (),
) -> None:
    """Register a network as ``NAME`` (conventional), as ``bcos_NAME`` (the same backbone of B-cos layers), or as both.

    Args:
        name: name of the conventional network.
        backbone: builds either network; a network of layers of its own may ignore the factory.
        key_layers: layers from which arguments are inferred.
        families: which of the two to register.
        bcos_key_layers: those of the B-cos network, if its layers have other names.
        conventional: defaults of :func:`conventional_layers` for this backbone.
        bcos: defaults of :func:`bcos_layers` for this backbone.
        fixed: arguments of the factories (``b``, ``norm``, ...) that may not be set.

    Raises:
        ValueError: the name is taken.
    """

    def build_conventional(*, in_channels: int, classes: int, **arguments: Any) -> nn.Module:  # noqa: ANN401
        make = conventional_layers(**{**(conventional or {}), **arguments})
        return backbone(make, in_channels=in_channels, classes=classes)

    def build_bcos(*, in_channels: int, classes: int, learn_b: str = "no", **arguments: Any) -> nn.Module:  # noqa: ANN401
        make = bcos_layers(classes=classes, **{**(bcos or {}), **arguments})
        network = backbone(make, in_channels=in_channels, classes=classes)
        learn_exponents(network, learn_b)
        return network

    def register(family: Family, build: Callable[..., nn.Module], arguments: Collection[str]) -> None:
        is_bcos = family == "bcos"
        architecture = Architecture(
            build=build,
            arguments=tuple(argument for argument in arguments if argument not in fixed),
            key_layers=(is_bcos and bcos_key_layers) or key_layers,
            family=family,
        )
        ARCHITECTURES.register(f"{BCOS_PREFIX}{name}" if is_bcos else name, architecture)

    if "conventional" in families:
        register("conventional", build_conventional, CONVENTIONAL_ARGUMENTS)
    if "bcos" in families:
        register("bcos", build_bcos, BCOS_ARGUMENTS)


def build_architecture(name: str, *, in_channels: int, classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Build an architecture, with parameters of the names and shapes of its checkpoints, yet to be loaded or trained.

    Raises:
        RequestError: unknown architecture, or an argument it does not take.
    """
    architecture = ARCHITECTURES[name]
    check_arguments(name, arguments, architecture.arguments)
    affine = arguments.get("norm_affine", "full")
    if affine not in get_args(Affine):
        raise unknown("norm_affine", str(affine), get_args(Affine))
    try:
        return architecture.build(in_channels=in_channels, classes=classes, **arguments)
    except TypeError as error:
        raise RequestError(f"architecture {name!r} cannot be built with {dict(arguments)}: {error}") from None
