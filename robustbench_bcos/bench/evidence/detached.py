"""Gradients through what a model detaches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.bench.evidence.check import NotApplicable
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.adapted import copied
from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.errors import named_reason_of
from robustbench_bcos.core.types import Images

SAME = 1e-3
"""Relative distance of two gradients that is rounding: what is computed twice is the same otherwise."""

ENDS = (
    torch.Tensor.detach,
    torch.detach,
    torch.Tensor.detach_,
    torch.detach_,
    vars(torch._C.TensorBase)["data"].__get__,
)
"""What gives a tensor without its gradient; the last one is the attribute ``data``."""


@contextmanager
def failures_told() -> Iterator[None]:
    """Around what asks an :class:`Undetached` classifier: code may count on tensors without gradients.

    Raises:
        NotApplicable: the classifier cannot be copied, or fails.
    """
    try:
        yield
    except Exception as error:  # A module's code may raise anything.
        if is_out_of_memory(error):
            raise
        raise NotApplicable(f"the model fails where its steps are not detached ({named_reason_of(error)})") from error


def detaches(target: AttackTarget, through: "Undetached") -> bool:
    """Whether the steps that a model detaches have a gradient, and others than it gives itself.

    Args:
        target: the images.
        through: of its classifier.
    """
    own = _gradient(target, through.classifier)
    found = _gradient(target, through)
    # Of a straight-through estimator nothing is left: its own step has no slope.
    return bool(found.any()) and bool((found - own).norm() > SAME * found.norm())


def _gradient(target: AttackTarget, classifier: nn.Module) -> Images:
    with torch.enable_grad():
        leaf = target.images.clone().requires_grad_()
        return usable_gradient(target.criterion.nearness, classifier(leaf), leaf, target.goals).gradient


class Undetached(nn.Module):
    """The same answers as those of a classifier, with the gradients that it leaves out.

    It asks a copy, because what a forward pass keeps would have a graph: running means, or the last features.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = copied(classifier, sharing=True)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        # Whose end restores what the mode did not let the classifier set.
        with torch.set_grad_enabled(torch.is_grad_enabled()), _Attached():
            logits: Tensor = self.classifier(images)
        return logits


class _Attached(TorchFunctionMode):
    """Nothing that Python asks of torch ends a gradient."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the function gives)
        named = dict(kwargs or {})
        if func in ENDS:
            return args[0].view_as(args[0])
        if func is torch._C._set_grad_enabled and not args[0]:
            return None
        if func is torch.autograd.grad:
            named["create_graph"] = True
        return func(*args, **named)
