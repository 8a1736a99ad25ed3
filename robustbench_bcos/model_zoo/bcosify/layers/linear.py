"""Linear layers."""

from typing import cast, final

from torch import nn

from robustbench_bcos.model_zoo.bcos.raw import RawBcosLinear
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter

PROJECTIONS = frozenset(
    (
        *("qkv", "to_qkv", "q", "k", "v", "kv", "to_q", "to_k", "to_v", "to_kv", "in_proj"),
        *("q_proj", "k_proj", "v_proj", "query", "key", "value", "queries", "keys", "values"),
    )
)
"""Names of the layers that make queries, keys and values, and stay linear, as published."""


@final
@CONVERTERS.registered("linear")
class Linear(AbstractConverter):
    """On the last axis; of attention, only what follows the mixing of values is B-cos."""

    kinds = ("torch.nn.modules.linear.Linear",)

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """B-cos, with the rows as they are."""
        return layer if path.rpartition(".")[2] in PROJECTIONS else RawBcosLinear(cast(nn.Linear, layer), b=b)
