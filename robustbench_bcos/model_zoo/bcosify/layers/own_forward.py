"""Convolutions and linear layers with a ``forward`` of their own: they pad or pool first, or standardise filters."""

from typing import final

from torch import nn

from robustbench_bcos.model_zoo.bcos.raw import RawBcosWithin
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter


@final
@CONVERTERS.registered("own_forward")
class OwnForward(AbstractConverter):
    """Subclasses of torch's layers, whatever they do around their product."""

    bases = (nn.Conv2d, nn.Linear)

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """Their own way, around a B-cos product."""
        return RawBcosWithin(layer, b=b)
