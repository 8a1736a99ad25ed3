"""BERT (Devlin et al., 2019) as a function of its published tensors, for one text at a time."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

HEAD = 32
"""Features of a head."""

EPSILON = 1e-12


def tokens_of(pieces: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """What the last layer says of each piece, (piece, feature); positions count from 0, and there is one segment."""
    tables = [tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    summed = tables[0][pieces] + tables[1][: len(pieces)] + tables[2][0]
    features = _norm(summed, tensors, "embeddings")
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in tensors:
        features = _layer(features, tensors, f"encoder.layer.{layer}")
        layer += 1
    return features


def _layer(features: Tensor, tensors: Mapping[str, Tensor], path: str) -> Tensor:
    queries, keys, values = (
        _linear(features, tensors, f"{path}.attention.self.{name}").unflatten(1, (-1, HEAD)).transpose(0, 1)
        for name in ("query", "key", "value")
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(0, 1).flatten(1)
    attended = features + _linear(mixed, tensors, f"{path}.attention.output.dense")
    features = _norm(attended, tensors, f"{path}.attention.output")
    inner = F.gelu(_linear(features, tensors, f"{path}.intermediate.dense"))
    return _norm(features + _linear(inner, tensors, f"{path}.output.dense"), tensors, f"{path}.output")


def _linear(features: Tensor, tensors: Mapping[str, Tensor], path: str) -> Tensor:
    return F.linear(features, tensors[f"{path}.weight"], tensors[f"{path}.bias"])


def _norm(features: Tensor, tensors: Mapping[str, Tensor], path: str) -> Tensor:
    weight, bias = tensors[f"{path}.LayerNorm.weight"], tensors[f"{path}.LayerNorm.bias"]
    return F.layer_norm(features, weight.shape, weight, bias, EPSILON)
