"""Networks under autocast to bfloat16, which takes about half the time on hardware that supports it."""

import torch
from torch import Tensor, nn


class Bfloat16(nn.Module):
    """A network under autocast, whose logits are float32, so that losses and attacks resolve their differences."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        with torch.autocast(encoded.device.type, torch.bfloat16):
            logits: Tensor = self.network(encoded)
        return logits.float()
