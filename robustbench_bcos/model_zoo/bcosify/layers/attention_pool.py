"""CLIP's pooling by attention (Radford et al., 2021), whose layers are used as weights."""

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.raw import RawBcosLinear
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter


@final
@CONVERTERS.registered("attention_pool")
class AttentionPool(AbstractConverter):
    """As all attention: the projection behind the values is B-cos; position codes go with the biases, as published.

    The published code (B-cosification, 2024) uses the weights of the last projection without its scale; here the scale
    is applied, as in every other layer. Networks that it trained are loaded without.
    """

    kinds = ("open_clip.modified_resnet.AttentionPool2d", "clip.model.AttentionPool2d")

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """The mean token asks, all tokens answer."""
        return PooledTokens(layer, b=b)

    def biases(self, converted: nn.Module) -> list[tuple[nn.Module, str]]:
        """Position codes are constants, too."""
        return [(converted, "positional_embedding"), *super().biases(converted)]


class PooledTokens(nn.Module):
    """One feature of all positions, or of each, with a B-cos projection behind the values.

    Args:
        pool: of CLIP; its layers are kept.
        b: the exponent.
    """

    q_proj: nn.Linear | None
    """None where no token asks: every position has a feature of its own."""
    k_proj: nn.Linear | None

    def __init__(self, pool: Any, *, b: float) -> None:  # noqa: ANN401 (a class of another package)
        super().__init__()
        self.num_heads: int = pool.num_heads
        self.positional_embedding = pool.positional_embedding
        self.q_proj, self.k_proj, self.v_proj = pool.q_proj, pool.k_proj, pool.v_proj
        self.c_proj = RawBcosLinear(pool.c_proj, b=b)

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps, (image, channel, height, width), to one feature for each image, or (image, place, feature)."""
        tokens = features.flatten(2).transpose(1, 2)
        if self.q_proj is None or self.k_proj is None:
            if self.positional_embedding is not None:
                tokens = tokens + self.positional_embedding[1:]
            apart: Tensor = self.c_proj(self.v_proj(tokens))
            return apart
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        if self.positional_embedding is not None:
            tokens = tokens + self.positional_embedding
        queries, keys, values = (
            project(part).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, part in ((self.q_proj, tokens[:, :1]), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        pooled: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(2)).squeeze(1)
        return pooled

    def unpool(self) -> None:
        """Give every position a feature of its own: what the mean token asks is left out."""
        self.q_proj = self.k_proj = None
