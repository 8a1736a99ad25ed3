"""Maps of many classes of an image are taken in one backward pass, and are those taken one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos import load_model
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.explanations.methods import input_x_gradient
from robustbench_bcos.model_zoo.classifier import freeze


class Tangled(nn.Module):
    """Convolutions of every kind: strides that leave rows over, groups, dilation, biases, words for padding."""

    def __init__(self, *, trained: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 4, 3, stride=2),
                nn.ReLU(),
                nn.Conv2d(4, 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
                nn.Conv2d(4, 6, 3, padding=2, dilation=2),
                nn.Conv2d(6, 6, 3, padding="same"),
            )
            self.head = nn.Linear(6, 7)
        freeze(self).requires_grad_(trained)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(images).mean(dim=(2, 3)))
        return logits


class _Own(torch.autograd.Function):
    """Without a rule for batches."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return 2 * features

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Asks for a number, which a batch of gradients does not have.
        return 2 * gradients[0] * (1.0 if float(gradients[0].sum()) < torch.inf else 0.0)


class OfSomebodysOwn(Tangled):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = _Own.apply(super().forward(images))
        return logits


NETWORKS: dict[str, Any] = {
    "tangled": Tangled,
    "trained": lambda: Tangled(trained=True),
    "own": OfSomebodysOwn,
    "bcos": lambda: load_model("digits-bcos-b2"),
    "natural": lambda: load_model("digits-natural"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_many_targets_have_the_maps_of_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS[name]()
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    if name in ("tangled", "trained", "own"):
        images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    targets = [[6, 0, 3, 3, 1], [2, 2, 4, 5, 0]]
    together = explain(network, images, targets)
    monkeypatch.setattr(input_x_gradient, "MANY", 99)
    alone = explain(network, images, targets)
    assert together.weights is not None
    assert alone.weights is not None
    torch.testing.assert_close(together.weights, alone.weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.contributions, alone.contributions, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.logits, alone.logits)


@pytest.mark.parametrize(("small", "expected"), [(64, 1), (63, 10)])
def test_they_are_taken_in_one_pass_of_small_images(small: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, really = [], torch.autograd.grad

    def counted(*arguments: Any, **settings: Any) -> Any:
        passes.append(1)
        return really(*arguments, **settings)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(input_x_gradient, "SMALL", small)
    explain(load_model("digits-bcos-b2"), torch.rand(1, 3, 8, 8), [list(range(10))])
    assert len(passes) == expected
