"""Rounding to bfloat16 is the network's affair alone."""

import torch
from torch import Tensor, nn

from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.mixed_precision import Bfloat16


def test_bfloat16_is_for_the_network_and_not_for_what_surrounds_it() -> None:
    seen = []

    class Asked(nn.Module):
        def forward(self, encoded: Tensor) -> Tensor:
            seen.append((encoded.dtype, torch.is_autocast_enabled("cpu")))
            return encoded.flatten(1)[:, :2]

    classifier = ImageClassifier(AddInverse(), Bfloat16(Asked()))
    classifier(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert seen == [(torch.float32, True)]
    assert not torch.is_autocast_enabled("cpu")


def test_logits_are_rounded_in_the_network_and_handed_out_in_float32() -> None:
    random = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 3)
    images = torch.rand(5, 64, generator=random)
    rounded, exact = Bfloat16(layer)(images).detach(), layer(images).detach()
    assert rounded.dtype == torch.float32
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert 1e-5 < float(error) < 0.02
