"""Attention within windows (Liu et al., 2021), whose layers torchvision uses as weights."""

from typing import Any, final

from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.raw import RawBcosWithin
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter


@final
@CONVERTERS.registered("window_attention")
class WindowAttention(AbstractConverter):
    """As all attention: the projection behind the values is B-cos, and those before them stay linear."""

    kinds = (
        "torchvision.models.swin_transformer.ShiftedWindowAttention",
        "torchvision.models.swin_transformer.ShiftedWindowAttentionV2",
    )

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """The same module around a B-cos product."""
        return RawBcosWithin(layer, b=b, plain=_before_the_values)


def _before_the_values(layer: nn.Module) -> list[Tensor]:
    others: Any = getattr(layer, "cpb_mlp", [])
    return [layer.qkv.weight, *(part.weight for part in others if isinstance(part, nn.Linear))]  # type: ignore[union-attr,list-item]
