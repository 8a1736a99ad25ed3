"""Networks in double precision without double copies of their weights."""

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_bcos.model_zoo.bcosify.double import InDouble


class Network(nn.Module):
    """Weights used whole, in parts, turned round, and after a computation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.three = nn.Parameter(torch.randn(12, 6))
        self.last = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        first, second, _ = self.three.chunk(3)
        features = self.conv(images).mean(dim=(2, 3))
        mixed = F.linear(features, first) + features @ second.t()
        return F.linear(mixed * mixed, self.last.weight / self.last.weight.std(), self.last.bias)


class Made(TorchDispatchMode):
    """Which tensors in double precision were made of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.copy_.default:
            self.copies.append(weakref.ref(made))
        return made


def test_gradients_are_those_of_a_network_in_double_precision_and_no_weight_is_kept_for_them() -> None:
    network = Network().eval().requires_grad_(False)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64).requires_grad_()
    with Made() as made, InDouble() as double:
        found = network(images)
    assert len(made.copies) >= 6
    assert not any(copy() is not None for copy in made.copies)
    # Nor is there memory for more of them than one function takes.
    assert len(double.rooms.rooms) <= 2
    (gradient,) = torch.autograd.grad(found.square().sum(), images)
    expected = network.double()(images)
    (exact,) = torch.autograd.grad(expected.square().sum(), images)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, exact, rtol=1e-6, atol=1e-12)


def test_views_of_weights_wait_in_single_precision_and_what_is_computed_does_not() -> None:
    weight = torch.rand(4, 6)
    with InDouble():
        views = [*weight.chunk(2), weight.t(), weight[1:], weight.view(2, 12), weight.detach()]
        computed = [weight + 1, weight.sum(), weight.t() @ weight]
    assert {view.dtype for view in views} == {torch.float32}
    assert {value.dtype for value in computed} == {torch.float64}


def test_what_somebody_still_has_is_not_written_over() -> None:
    first, second = torch.rand(3), torch.rand(3)
    with InDouble():
        kept = torch.Tensor.add_(first, 0)  # Gives its argument.
        found = torch.dot(second, second)
    assert kept.dtype == torch.float64
    assert torch.equal(kept, first.double())
    assert torch.equal(found, second.double() @ second.double())
