"""Convolutions."""

from typing import cast, final

from torch import nn

from robustbench_bcos.model_zoo.bcos.raw import RawBcosConv2d
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter


@final
@CONVERTERS.registered("convolution")
class Convolution(AbstractConverter):
    """Two-dimensional ones, of any stride, padding, dilation and number of groups."""

    kinds = (
        "torch.nn.modules.conv.Conv2d",
        "robustbench_bcos.model_zoo.architectures.layers.PointwiseLinear",
    )

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """B-cos, with the filters as they are."""
        convolution = pointwise(layer) if isinstance(layer, nn.Linear) else cast(nn.Conv2d, layer)
        return RawBcosConv2d(convolution, b=b)


def pointwise(linear: nn.Linear) -> nn.Conv2d:
    """The convolution of 1x1 that does at every position what a linear layer does."""
    made = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None, device="meta")
    made.weight = nn.Parameter(linear.weight.detach()[:, :, None, None], requires_grad=linear.weight.requires_grad)
    made.bias = linear.bias
    return made
