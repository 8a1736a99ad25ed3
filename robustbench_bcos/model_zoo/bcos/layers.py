"""The B-cos transform (Böhle et al., 2022, eq. 3; Böhle et al., 2024, for the version without layer scale).

For a patch x and a unit-norm filter w:  B-cos(x; w) = |cos(x, w)|^(B-1) * w.x.  With MaxOut, the largest w.x of M
consecutive filters is taken first. There is never a bias.

Numerics follow the published checkpoints, which were trained with them: 1e-6 inside the root of a convolution's patch
norm, 1e-12 added to a linear layer's norm, 1e-6 on the cosine when B is neither 1 nor 2.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from robustbench_bcos.core.division import divide
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos import linear_closed_form
from robustbench_bcos.model_zoo.bcos.closed_form import (
    COSINE_EPSILON,
    PATCH_EPSILON,
    ConvGeometry,
    geometry_of,
    respond,
    respond_linearly,
)
from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer, official_layers
from robustbench_bcos.model_zoo.bcos.exponents import Exponent, make_exponents
from robustbench_bcos.model_zoo.bcos.linear_closed_form import LINEAR_EPSILON

SEPARABLE = 5
"""Windows of at least this size are summed along one axis and then along the other, which is faster."""

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
IntOrPair = int | tuple[int, int]


def unit_rows(weight: Tensor) -> Tensor:
    """Divide each filter by its 2-norm; a filter of zeros stays zero, because 0/0 would make every logit NaN."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return divide(weight, norms.view(-1, *[1] * (weight.dim() - 1)))


class UnitConv2d(nn.Conv2d):
    """A convolution without bias whose filters have norm 1.

    Attributes:
        normalised: whether the filters have been normalised already and are constants.
    """

    normalised = False

    def filters(self) -> Tensor:
        """The normalised ones."""
        return self.weight if self.normalised else unit_rows(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with the normalised filters."""
        responses: Tensor = self._conv_forward(input, self.filters(), None)
        return responses


class UnitLinear(nn.Linear):
    """A linear map without bias whose rows have norm 1.

    Attributes:
        normalised: as of :class:`UnitConv2d`.
    """

    normalised = False

    def forward(self, input: Tensor) -> Tensor:
        """Multiply with the normalised rows."""
        return F.linear(input, self.weight if self.normalised else unit_rows(self.weight))


class BcosModule(DynamicLayer):
    """Whatever applies the B-cos transform.

    Attributes:
        exponent: of a module that learns its B; to set ``b`` freezes it.
    """

    exponent: Exponent | None

    def __init__(self, b: float) -> None:
        super().__init__()
        if not b >= 1:
            raise RequestError(f"b must be at least 1, got {b}: choose 1 for a linear layer, 2 as published")
        self._b = b
        self.exponent = None

    @property
    def b(self) -> float:
        """The exponent."""
        return self._b if self.exponent is None else self.exponent().item()

    @b.setter
    def b(self, value: float) -> None:
        self._b, self.exponent = value, None

    def scaled(self, responses: Tensor, norms: Callable[[], Tensor]) -> Tensor:
        """Responses times |cos|^(B-1), a constant in explanation mode.

        Args:
            responses: of the linear map.
            norms: gives those of the inputs, broadcastable to the responses; not asked where B is 1.
        """
        b = self._b if self.exponent is None else self.exponent()
        # No short cuts for an exponent that is learned: its gradient would be lost.
        if self.exponent is None and b == 1:
            return responses
        if self.detaching:
            with torch.no_grad():
                scale = self._scale(responses, norms(), b)
        else:
            scale = self.as_constant(self._scale(responses, norms(), b))
        return scale * responses

    def _scale(self, responses: Tensor, norms: Tensor, b: float | Tensor) -> Tensor:
        # One reciprocal per position is cheaper than a division per output, in the backward pass twice.
        cosine = (responses * norms.reciprocal()).abs()
        return cosine if self.exponent is None and b == 2 else (cosine + COSINE_EPSILON) ** (b - 1)


class AbstractBcosLayer(BcosModule, ABC):
    """Base of the convolution and the linear layer: MaxOut, then the scale |cos|^(B-1)."""

    linear: UnitConv2d | UnitLinear
    channel_axis: ClassVar[int]

    def __init__(self, b: float, max_out: int) -> None:
        super().__init__(b)
        if max_out < 1:
            raise RequestError(f"max_out must be at least 1, got {max_out}: choose 1 for no MaxOut")
        self.max_out = max_out

    @abstractmethod
    def norms(self, features: Tensor) -> Tensor:
        """Norm of the input under each output, broadcastable to the output."""

    def forward(self, features: Tensor) -> Tensor:
        """Respond to each input by its alignment with the filters."""
        return self.scaled(self.largest(self.linear(features)), lambda: self.norms(features))

    def largest(self, responses: Tensor) -> Tensor:
        """Of each output's filters, the largest response."""
        if self.max_out == 1:
            return responses
        axis = self.channel_axis % responses.dim()
        winners: Tensor = responses.unflatten(axis, (-1, self.max_out)).max(dim=axis + 1).values
        return winners


class BcosConv2d(AbstractBcosLayer):
    """B-cos convolution.

    Its one tensor is ``linear.weight`` of shape (out_channels * max_out, in_channels / groups, height, width); filters
    o * max_out ... o * max_out + max_out - 1 belong to output o. Takes and gives (image, channel, height, width).

    Attributes:
        closed_form: set if the filters are constants, which gives the gradient by the input in closed form. Where
            filters are trained, gradients are in closed form as well, and can be differentiated again.
    """

    linear: UnitConv2d
    channel_axis = 1
    closed_form: ConvGeometry | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair = 1,
        stride: IntOrPair = 1,
        padding: IntOrPair | Literal["same", "valid"] = 0,
        *,
        dilation: IntOrPair = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        b: float = 2.0,
        max_out: int = 1,
    ) -> None:
        super().__init__(b, max_out)
        if out_channels % groups:
            raise ValueError(f"expected out_channels divisible by groups, got {out_channels} and {groups}")
        self.linear = UnitConv2d(
            in_channels,
            out_channels * max_out,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias=False,
            padding_mode=padding_mode,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Respond to each patch by its alignment with the filters."""
        geometry = self._geometry()
        # Gates are held by what autograd knows.
        gated = self.explaining and not self.detaching
        if geometry is None or gated or not _is_plain(features) or features.dim() != 4:
            return super().forward(features)
        closed = respond_linearly if self.explaining else respond
        return closed(features, self._filters(), geometry)

    def _geometry(self) -> ConvGeometry | None:
        """For gradients in closed form; ``None`` where autograd is to find them."""
        if not self.linear.weight.requires_grad:
            return self.closed_form
        if self.exponent is not None or self.linear.bias is not None or not torch.is_grad_enabled():
            return None
        return geometry_of(self.linear, b=self.b, max_out=self.max_out)

    def _filters(self) -> Tensor:
        return self.linear.filters()

    def norms(self, features: Tensor) -> Tensor:
        """Norm of the patch under each output position: (image, 1 or out_channels, height, width)."""
        conv = self.linear
        energy = features.square()
        if conv.groups < conv.in_channels:
            energy = energy.unflatten(1, (conv.groups, -1)).sum(dim=2)
        # Squaring and summing over channels commute with every padding mode: pad one map per group only.
        energy = F.pad(energy, self.padding, "constant" if conv.padding_mode == "zeros" else conv.padding_mode)
        if conv.dilation == (1, 1):
            energy = _window_sums(energy, conv.kernel_size, conv.stride)
        else:
            ones = energy.new_ones(conv.groups, 1, *conv.kernel_size)
            energy = F.conv2d(energy, ones, None, conv.stride, 0, conv.dilation, conv.groups)
        norms = (energy + PATCH_EPSILON).sqrt()
        outputs = conv.out_channels // self.max_out // conv.groups
        return norms if conv.groups == 1 or outputs == 1 else norms.repeat_interleave(outputs, dim=1)

    @property
    def padding(self) -> list[int]:
        """Left, right, top and bottom padding in pixels, with ``same`` worked out as torch does."""
        conv = self.linear
        if conv.padding == "valid":
            return [0, 0, 0, 0]
        if conv.padding == "same":
            totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
            return [totals[1] // 2, totals[1] - totals[1] // 2, totals[0] // 2, totals[0] - totals[0] // 2]
        vertical, horizontal = (int(pixels) for pixels in conv.padding)
        return [horizontal, horizontal, vertical, vertical]


def _is_plain(features: Tensor) -> bool:
    """Whether the closed form applies: no compiler, autocast or tensor subclass needs to see single operations."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or type(features) is not Tensor
        or features.is_meta  # It knows no autocast.
        or torch.is_autocast_enabled(features.device.type)
    )


def _window_sums(maps: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # A mean times the area, as in the official layers, and not a pooling with divisor_override=1: the exporters to ONNX
    # of torch 2.14 drop the divisor without a word.
    if min(kernel) < SEPARABLE:
        return F.avg_pool2d(maps, kernel, stride) * math.prod(kernel)
    columns = F.avg_pool2d(maps, (kernel[0], 1), (stride[0], 1))
    return F.avg_pool2d(columns, (1, kernel[1]), (1, stride[1])) * math.prod(kernel)


class BcosLinear(AbstractBcosLayer):
    """B-cos linear layer on (..., features); its one tensor is ``linear.weight`` (out_features * max_out, in).

    Attributes:
        closed_form: whether its rows are constants, and the gradient by the input is in closed form.
    """

    linear: UnitLinear
    channel_axis = -1
    closed_form = False

    def __init__(self, in_features: int, out_features: int, *, b: float = 2.0, max_out: int = 1) -> None:
        super().__init__(b, max_out)
        self.linear = UnitLinear(in_features, out_features * max_out, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Respond to each input by its alignment with the rows."""
        differentiated = torch.is_grad_enabled() and features.requires_grad
        if not (self.closed_form and differentiated) or self.explaining or not _is_plain(features):
            return super().forward(features)
        linear = self.linear
        return linear_closed_form.respond(features, linear.weight, linear.bias, b=self._b, max_out=self.max_out)

    def norms(self, features: Tensor) -> Tensor:
        """Norm of each row."""
        norms: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        return norms + LINEAR_EPSILON


def is_bcos(network: nn.Module) -> bool:
    """Whether a network is built of B-cos layers, ours or the official ones, so that its dynamic weights explain it."""
    ours = any(isinstance(module, BcosModule) for module in network.modules())
    return ours or bool(official_layers(network))


def learn_exponents(network: nn.Module, how: str) -> None:
    """Let B-cos layers learn their B, from where it is.

    Args:
        network: changed in place.
        how: ``no``, ``layer`` for one B a layer, ``shared`` for one B.

    Raises:
        RequestError: it is none of these, or B is 1.
    """
    layers = [module for module in network.modules() if isinstance(module, BcosModule)]
    exponents = make_exponents(how, layers[0].b, len(layers)) if layers else []
    for layer, exponent in zip(layers, exponents, strict=False):
        layer.exponent = exponent


def learned_exponents(network: nn.Module) -> dict[str, float]:
    """B of each layer that learns it, by the layer's name."""
    named = network.named_modules()
    return {name: module.b for name, module in named if isinstance(module, BcosModule) and module.exponent}


def b_of(network: nn.Module) -> float | None:
    """The exponent that all B-cos layers share; ``None`` if there are none, or they differ."""
    found = {float(module.b) for module in network.modules() if isinstance(module, BcosModule)}
    return found.pop() if len(found) == 1 else None


class WithB(nn.Module):
    """A network whose B-cos layers have another exponent, for as long as it is asked."""

    def __init__(self, network: nn.Module, b: float) -> None:
        super().__init__()
        self.network = network
        self.b = b

    def forward(self, images: Tensor) -> Tensor:
        """What the network says with this exponent."""
        layers = [module for module in self.network.modules() if isinstance(module, BcosModule)]
        before = [layer.b for layer in layers]
        try:
            for layer in layers:
                layer.b = self.b
            logits: Tensor = self.network(images)
        finally:
            for layer, b in zip(layers, before, strict=True):
                layer.b = b
        return logits


class LogitLayer(nn.Module):
    """The last step of a B-cos network: divide by a temperature, add a constant bias. It has no parameters."""

    def __init__(self, *, temperature: float | None = None, bias: float | None = None) -> None:
        super().__init__()
        if temperature is not None and not temperature > 0:
            raise RequestError(f"temperature must be positive, got {temperature}: leave it out for none")
        self.temperature = temperature
        self.bias = bias

    def forward(self, logits: Tensor) -> Tensor:
        """Scale and shift the logits."""
        if self.temperature is not None:
            logits = logits / self.temperature
        return logits if self.bias is None else logits + self.bias
