"""The check whose attack goes through what a model detaches."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.evidence.check import NotApplicable
from robustbench_bcos.bench.evidence.detached import Undetached, failures_told


def unrolled(images: Tensor) -> Tensor:
    """A step of gradient descent on the sum of cubes."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        (step,) = torch.autograd.grad((leaf**3).sum(), leaf)
    return leaf - 0.1 * step


@torch.no_grad()
def frozen(images: Tensor) -> Tensor:
    return images**2


@pytest.mark.parametrize(
    ("hidden", "slope"),
    [
        (lambda x: x.detach() ** 2, 1.0),
        (lambda x: torch.detach(x) ** 2, 1.0),
        (lambda x: x.data**2, 1.0),
        (lambda x: (x**2).detach_(), 1.0),
        (frozen, 1.0),
        (unrolled, 1 - 0.3 * 2 * 0.5),
    ],
    ids=["detach", "torch.detach", "data", "detach_", "no_grad", "unrolled"],
)
def test_gradients_go_through_what_is_hidden(hidden: Callable[[Tensor], Tensor], slope: float) -> None:
    class Hiding(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images + hidden(images)

    images = torch.full((2, 3), 0.5, requires_grad=True)
    answers = Undetached(Hiding())(images)
    torch.testing.assert_close(answers, Hiding()(images))
    (gradient,) = torch.autograd.grad(answers.sum(), images)
    torch.testing.assert_close(gradient, torch.full((2, 3), 1 + slope))
    with torch.no_grad():
        Undetached(Hiding())(images)
        assert not torch.is_grad_enabled()


def test_what_a_forward_pass_keeps_has_no_graph() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.last = images.detach()
            with torch.no_grad():
                self.mean += images.mean()
            return images

    model = Keeping()
    Undetached(model)(torch.ones(2, 3, requires_grad=True))
    assert not hasattr(model, "last")
    assert (model.mean.item(), model.mean.requires_grad) == (0.0, False)


def test_code_that_counts_on_tensors_without_gradients_is_told() -> None:
    class Leaving(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images + torch.from_numpy(images.detach().numpy() ** 2)

    with pytest.raises(NotApplicable, match=r"not detached \(RuntimeError: Can't call numpy"), failures_told():
        Undetached(Leaving())(torch.ones(2, 3, requires_grad=True))
    with pytest.raises(MemoryError), failures_told():
        raise MemoryError
