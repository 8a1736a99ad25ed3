"""Neural ODEs for small images (Chen et al., 2018): features follow a field of two convolutions for a time of 1."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import AbstractSolver, make_solver
from robustbench_bcos.model_zoo.architectures.layers import LayerFactory, bcos_layers, conventional_layers
from robustbench_bcos.model_zoo.architectures.registry import (
    ARCHITECTURES,
    BCOS_ARGUMENTS,
    BCOS_PREFIX,
    CONVENTIONAL_ARGUMENTS,
    Architecture,
    KeyLayers,
)
from robustbench_bcos.model_zoo.bcos.layers import learn_exponents

DEFAULT_SOLVER = "rk4"

DEFAULT_STEPS = 4

OPTIONS = ("steps", "rtol", "atol", "method", "per_image")
"""Arguments that are a solver's own."""

WIDTH = 16


class Flow(nn.Module):
    """States at the end of a field's time, given those at its beginning.

    Attributes:
        solver: how it is solved; another one can be set, which changes no weights.
    """

    def __init__(self, field: nn.Module, solver: AbstractSolver) -> None:
        super().__init__()
        self.field = field
        self.solver = solver

    def forward(self, states: Tensor) -> Tensor:
        """Carry each image's states along."""
        return self.solver.advance(self.field, states, 0.0, 1.0)

    def extra_repr(self) -> str:
        """The solver, which has no tensors."""
        return str(self.solver)


class ConvolutionalField(nn.Module):
    """Two 3x3 convolutions, each with a norm; derivatives have the shape of the states."""

    def __init__(self, make: LayerFactory, channels: int) -> None:
        super().__init__()
        self.conv1 = make.convolution(channels, channels, 3)
        self.bn1 = make.norm(channels)
        self.act1 = make.activation()
        self.conv2 = make.convolution(channels, channels, 3)
        self.bn2 = make.norm(channels)

    def forward(self, states: Tensor) -> Tensor:
        """Derivatives by time."""
        derivatives: Tensor = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(states)))))
        return derivatives

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """Both convolutions."""
        return [(self.conv1, self.bn1), (self.conv2, self.bn2)]


class OdeNet(nn.Module):
    """A convolution, then for each stage a flow, with a convolution that halves height and width between two stages.

    Args:
        make: makes the layers to build it from.
        solver: of all flows.
        widths: channels of each stage.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(
        self, make: LayerFactory, *, solver: AbstractSolver, widths: Sequence[int], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        self.conv1 = make.convolution(in_channels, widths[0], 3)
        self.bn1 = make.norm(widths[0])
        self.act = make.activation()
        stages: list[nn.Module] = []
        for number, width in enumerate(widths):
            if number > 0:
                halved = [make.convolution(widths[number - 1], width, 3, 2), make.norm(width), make.activation()]
                stages.append(Halving(*halved))
            stages.append(Flow(ConvolutionalField(make, width), solver))
        self.stages = nn.Sequential(*stages)
        self.fc = make.head(widths[-1], classes)

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        logits: Tensor = self.fc(self.stages(self.act(self.bn1(self.conv1(encoded)))))
        return logits

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem; fields and halvings list their own."""
        return [(self.conv1, self.bn1)]


class Halving(nn.Sequential):
    """A convolution of stride 2, a norm and an activation."""

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The convolution."""
        return [(self[0], self[1])]


def flows_of(network: nn.Module) -> list[Flow]:
    """Every part of a network that a solver carries out."""
    return [module for module in network.modules() if isinstance(module, Flow)]


def _solver(arguments: dict[str, Any]) -> AbstractSolver:
    """The solver that arguments name, which are taken out of them."""
    name = arguments.pop("solver", DEFAULT_SOLVER)
    options = {option: arguments.pop(option) for option in OPTIONS if option in arguments}
    if name not in SOLVERS:
        raise RequestError(f"solver must be one of {', '.join(SOLVERS)}, got {name!r}: choose {DEFAULT_SOLVER}, say")
    if "steps" in {field.name for field in fields(SOLVERS[name])}:
        options.setdefault("steps", DEFAULT_STEPS)
    return make_solver(name, options)


def _build(widths: Sequence[int], *, in_channels: int, classes: int, **arguments: Any) -> nn.Module:  # noqa: ANN401
    solver = _solver(arguments)
    make = conventional_layers(**arguments)
    return OdeNet(make, solver=solver, widths=widths, in_channels=in_channels, classes=classes)


def _build_bcos(
    widths: Sequence[int],
    *,
    in_channels: int,
    classes: int,
    learn_b: str = "no",
    **arguments: Any,  # noqa: ANN401
) -> nn.Module:
    solver = _solver(arguments)
    make = bcos_layers(classes=classes, **arguments)
    network = OdeNet(make, solver=solver, widths=widths, in_channels=in_channels, classes=classes)
    learn_exponents(network, learn_b)
    return network


KEY_LAYERS = KeyLayers(first="conv1", last="fc", norm="bn1", filters=WIDTH)
SIZES = {"odenet": (WIDTH, 2 * WIDTH), "odenet3": (WIDTH, 2 * WIDTH, 4 * WIDTH)}
"""Two stages, for eight-pixel digits, and three for CIFAR-10."""

for _name, _widths in SIZES.items():
    ARCHITECTURES.register(
        _name,
        Architecture(
            build=partial(_build, _widths),
            arguments=(*CONVENTIONAL_ARGUMENTS, "solver", *OPTIONS),
            key_layers=KEY_LAYERS,
        ),
    )
    ARCHITECTURES.register(
        f"{BCOS_PREFIX}{_name}",
        Architecture(
            build=partial(_build_bcos, _widths),
            arguments=(*BCOS_ARGUMENTS, "solver", *OPTIONS),
            key_layers=KEY_LAYERS,
            family="bcos",
        ),
    )
