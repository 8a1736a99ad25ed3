"""Norms that take their statistics from the image."""

from typing import final

from torch import nn

from robustbench_bcos.model_zoo.bcos.norms import ImageNorm2d
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter


@final
@CONVERTERS.registered("image_norm")
class ImageNorm(AbstractConverter):
    """Layer, group, instance and RMS norms stay as they are, less their bias: means are linear, deviations dynamic."""

    bases = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm2d, nn.InstanceNorm1d, ImageNorm2d)

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """The norm itself."""
        return layer
