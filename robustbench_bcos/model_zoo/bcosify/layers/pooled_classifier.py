"""Classifiers of this zoo that pool by themselves."""

from typing import cast, final

from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.raw import RawBcosConv2d
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter
from robustbench_bcos.model_zoo.bcosify.layers.convolution import pointwise


@final
@CONVERTERS.registered("pooled_classifier")
class PooledClassifier(AbstractConverter):
    """As published: every position is classified first, and logits are means over positions."""

    kinds = ("robustbench_bcos.model_zoo.architectures.layers.PooledLinear",)

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """A convolution of 1x1 and a mean."""
        return RawPooledClassMaps(pointwise(cast(nn.Linear, layer)), b=b)


class RawPooledClassMaps(RawBcosConv2d):
    """Classify every position, then take the mean over positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps to logits."""
        return super().forward(features).mean(dim=(2, 3))
