"""Gradients through what a model detaches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.types import Images

SAME = 1e-3
"""Relative distance of two gradients that is rounding: what is computed twice is the same otherwise."""

ENDS = (torch.Tensor.detach, torch.detach, vars(torch._C.TensorBase)["data"].__get__)
"""What gives a tensor without its gradient; the last one is the attribute ``data``."""


def detaches(target: AttackTarget) -> bool:
    """Whether gradients through the steps that a model detaches are others than its own."""
    try:
        through = _gradient(target, Undetached(target.classifier))
    except RuntimeError:
        # What is written in place without gradients cannot be written with them.
        return False
    own = _gradient(target, target.classifier)
    return bool((through - own).norm() > SAME * through.norm())


def _gradient(target: AttackTarget, classifier: nn.Module) -> Images:
    with torch.enable_grad():
        leaf = target.images.clone().requires_grad_()
        return usable_gradient(target.criterion.nearness, classifier(leaf), leaf, target.goals).gradient


class Undetached(nn.Module):
    """The same answers as those of a classifier, with the gradients that it leaves out."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

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
