"""Layers of vision transformers, on (image, token, feature), for conventional and for B-cos networks.

In explanation mode attention is a constant, so that a B-cos network stays a linear map of its values; and a layer norm
divides by a constant. The position code is added and does not depend on the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer
from robustbench_bcos.model_zoo.bcos.norms import Affine

WAVELENGTH = 10_000


class TokenNorm(nn.LayerNorm, DynamicLayer):
    """Layer norm of each token by itself, centred.

    In explanation mode outputs differ from those outside it by rounding: torch's fused layer norm cannot hold the
    deviation constant.
    """

    def __init__(self, features: int, *, affine: Affine) -> None:
        super().__init__(features, elementwise_affine=affine != "none", bias=affine == "full")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the features of each token."""
        if not self.explaining:
            return super().forward(input)
        variance, mean = torch.var_mean(input, dim=-1, correction=0, keepdim=True)
        normed: Tensor = (input - mean) / self.as_constant((variance + self.eps).sqrt())
        if self.weight is not None:
            normed = normed * self.weight
        return normed if self.bias is None else normed + self.bias


class PositionCode(nn.Module):
    """Sines and cosines of a token's column and row, added to it (Beyer et al., 2022).

    The code is computed for the grid of each input, so images may differ in size from the training images. It is a
    constant that belongs to no pixel, so contributions of such a network do not sum to its logit.
    """

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add the code.

        Args:
            tokens: (image, token, feature), row by row, of a multiple of four features.
            grid: rows and columns.
        """
        return tokens + position_code(*grid, tokens.shape[-1], tokens.device).to(tokens.dtype)


def position_code(rows: int, columns: int, features: int, device: torch.device | None = None) -> Tensor:
    """Sine and cosine of the column, then of the row, at ``features / 4`` frequencies from 1 to 1 / 10000.

    Gives (token, feature) in float32, in which the published networks were trained whatever their precision.
    """
    steps = torch.arange(features // 4, dtype=torch.float32, device=device) / (features // 4 - 1)
    frequencies = 1.0 / WAVELENGTH**steps
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    across, down = column.reshape(-1, 1) * frequencies, row.reshape(-1, 1) * frequencies
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)


class Attention(DynamicLayer):
    """Norm, then attention of all tokens to all (Vaswani et al., 2017); in explanation mode a constant mixing.

    Args:
        norm: of the tokens.
        out: from the heads' values side by side to the token.
        features: of a token.
        heads: split the features evenly.
    """

    def __init__(self, norm: nn.Module, out: nn.Module, *, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm
        self.to_qkv = nn.Linear(features, 3 * features, bias=False)
        self.to_out = out

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens' values."""
        split = self.to_qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(self.as_constant(queries), self.as_constant(keys), values)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out
