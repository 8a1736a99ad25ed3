"""Attention of torch itself, whose layers are used as weights."""

from typing import Any, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.raw import RawBcosLinear
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter


@final
@CONVERTERS.registered("attention")
class Attention(AbstractConverter):
    """Projections to queries, keys and values stay linear, as published; the one behind the values is B-cos."""

    kinds = ("torch.nn.modules.activation.MultiheadAttention",)

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """Attention of all tokens to all."""
        attention = cast(nn.MultiheadAttention, layer)
        if attention.bias_k is not None or attention.add_zero_attn or not attention._qkv_same_embed_dim:
            raise RequestError(
                f"{path}: attention with bias_k, add_zero_attn, kdim or vdim cannot be converted: build the network "
                "without them"
            )
        return MixedTokens(attention, b=b)

    def biases(self, converted: nn.Module) -> list[tuple[nn.Module, str]]:
        """Of both projections."""
        return [(converted, "in_proj_bias"), *super().biases(converted)]


class MixedTokens(nn.Module):
    """What :class:`torch.nn.MultiheadAttention` computes in evaluation mode, with a B-cos projection behind it.

    It is called as that is, and gives no shares of attention.
    """

    # Layers of torch that have a fast way around this module ask for these.
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention, *, b: float) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.batch_first = attention.batch_first
        self.dropout = attention.dropout
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = RawBcosLinear(attention.out_proj, b=b)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        **_: Any,  # noqa: ANN401
    ) -> tuple[Tensor, None]:
        """Tokens of queries, mixed from the values; there is ``None`` in place of the shares."""
        if key_padding_mask is not None or query.dim() != 3:
            raise RequestError(
                "B-cosified attention takes batches of tokens without padding: leave key_padding_mask out"
            )
        tokens = [part if self.batch_first else part.transpose(0, 1) for part in (query, key, value)]
        weights = self.in_proj_weight.chunk(3)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        queries, keys, values = (
            F.linear(part, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part, weight, bias in zip(tokens, weights, biases, strict=True)
        )
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=_allowed(attn_mask, self.num_heads),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal and attn_mask is None,
        )
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def _allowed(mask: Tensor | None, heads: int) -> Tensor | None:
    """A mask as scaled_dot_product_attention takes it, in which true is what takes part."""
    if mask is None:
        return None
    if mask.dim() == 3:
        mask = mask.unflatten(0, (-1, heads))
    return ~mask if mask.dtype == torch.bool else mask
