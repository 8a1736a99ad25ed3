"""Networks whose products are rounded to bfloat16, which takes about half the time where the hardware knows it."""

import torch
from torch import Tensor, nn


class Bfloat16(nn.Module):
    """A network under autocast, which gives float32 logits: attacks and losses want every bit of their differences."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        with torch.autocast(encoded.device.type, torch.bfloat16):
            logits: Tensor = self.network(encoded)
        return logits.float()
