"""Which constants a B-cos network adds, where, and what they contribute to its logits.

A bias, a position code, a class token or anything else that does not depend on the image is added, or put beside what
does, by some function. Gradients by these constants, in explanation mode, times the constants are the part of the
logit that no pixel has: with the contributions of the pixels it sums to the logit.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcosify.double import InDouble
from robustbench_bcos.model_zoo.bcosify.network import name_of
from robustbench_bcos.model_zoo.bcosify.rule import depends

ADDING = frozenset(
    (
        *("add", "__add__", "__radd__", "__iadd__", "sub", "subtract", "__sub__", "__rsub__", "__isub__", "rsub"),
        *("maximum", "minimum"),
    )
)
"""Functions of two values that add a constant to what depends on the image, or take the larger of both."""

TOLERANCE = 1e-5
"""Part of a logit that may be left, by rounding."""

LEAST = 1e-290
"""Logits below it are rounded in double precision, too, and nothing is said of what is left of them."""

JOINING = frozenset(("cat", "concat", "concatenate", "stack", "hstack", "vstack"))
"""Functions of several values that put constants beside what depends on the image."""

BIASES = {"linear": 2, "conv2d": 2, "addmm": 0, "baddbmm": 0, "addcmul": 0}
"""Functions that add a bias to a product, with its place."""

MULTIPLYING = frozenset(
    ("linear", "conv1d", "conv2d", "conv3d", "matmul", "__matmul__", "mm", "bmm", "einsum", "addmm", "baddbmm")
)
"""Functions that apply a linear map, if one of what they take is a weight."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Where the largest logit of one image comes from."""

    logit: float
    contributions: float
    """Sum over the encoded image."""
    residuals: dict[str, float]
    """Sum over the constants that each layer added, by layer; those that matter."""

    @property
    def remainder(self) -> float:
        """What is left of the logit, relative to the largest part of it."""
        parts = [self.contributions, *self.residuals.values()]
        return abs(self.logit - sum(parts)) / max(abs(self.logit), *map(abs, parts), LEAST)


class _Ledger(TorchFunctionMode):
    def __init__(self, network: nn.Module, known: Collection[nn.Module]) -> None:
        super().__init__()
        self.known = known
        tensors = (*network.named_parameters(), *network.named_buffers())
        self.names = {tensor.data_ptr(): name for name, tensor in tensors}
        self.within: list[tuple[str, bool]] = [("", False)]
        """Modules that are being asked, with whether one of them is known."""
        self.constants: list[tuple[str, Tensor]] = []
        self.weights: dict[str, str] = {}
        """Functions that multiply by weights which belong to no layer, by path."""
        self.cut_off: list[str] = []
        """Layers to which nothing comes that depends on the image."""
        self.derived: dict[int, tuple[str, Tensor]] = {}
        """What was made of the network's own tensors, with their names; kept, so that no other has its identity."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        name = name_of(func)
        path, known = self.within[-1]
        if name in MULTIPLYING and not known and any(map(_is_weight, tree_leaves(args))):
            self.weights.setdefault(path, name)
        if name in ("linear", "conv2d") and torch.is_grad_enabled() and not depends(args[0]):
            self.cut_off.append(path)
        if torch.is_grad_enabled() and any(map(depends, tree_leaves((args, kwargs)))):
            args, kwargs = self._with_leaves(name, args, kwargs)
        made = func(*args, **kwargs)
        if args and isinstance(made, Tensor) and not depends(made) and self._named(args[0]):
            self.derived[id(made)] = self._named(args[0]), made
        return made

    def enter(self, path: str, module: nn.Module) -> None:
        self.within.append((path, self.within[-1][1] or module in self.known))

    def leave(self) -> None:
        self.within.pop()

    def _with_leaves(self, name: str, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """The arguments, with leaves of the graph in place of constants that are added."""
        if name in JOINING:
            return (tree_map(self._leaf, args[0]), *args[1:]), {
                key: tree_map(self._leaf, v) for key, v in kwargs.items()
            }
        if name in ADDING:
            like = next(part for part in args if depends(part))
            pair = (self._leaf(like.new_tensor(part) if isinstance(part, int | float) else part) for part in args[:2])
            return (*pair, *args[2:]), kwargs
        if name in BIASES:
            place = BIASES[name]
            given = [self._leaf(part) if number == place else part for number, part in enumerate(args)]
            return given, {key: self._leaf(part) if key == "bias" else part for key, part in kwargs.items()}
        return args, kwargs

    def _leaf(self, value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, Tensor) or depends(value) or not value.is_floating_point():
            return value
        leaf = value.detach().clone().requires_grad_()
        self.constants.append((self._named(value) or self.within[-1][0], leaf))
        return leaf

    def _named(self, value: object) -> str:
        """The name of the network's own tensor that a value is made of; empty if it is another."""
        if not isinstance(value, Tensor):
            return ""
        with torch._C.DisableTorchFunction():
            return self.derived[id(value)][0] if id(value) in self.derived else self.names.get(value.data_ptr(), "")


def account(network: nn.Module, encoded: Tensor, known: Collection[nn.Module] = ()) -> Account:
    """Where the largest logit of an image comes from, in explanation mode.

    Args:
        network: a B-cosified one, frozen.
        encoded: one image, (1, channel, height, width).
        known: layers that were converted.

    Raises:
        RequestError: another module multiplies by weights, or part of the logit comes from nowhere.
    """
    ledger = _Ledger(network, known)
    leaf = encoded.detach().double().requires_grad_()
    with explanation_mode(network), _followed(network, ledger), torch.enable_grad(), InDouble(), ledger:
        logit = network(leaf).max()
    for path, function in ledger.weights.items():
        where = path.removeprefix("layers").removeprefix(".") or "the network"
        raise RequestError(
            f"{where} multiplies by weights of its own in its forward ({function}): put them into a torch.nn.Linear or "
            "Conv2d, or register a converter for this module, see docs/bcosify.md"
        )
    constants = [constant for _, constant in ledger.constants]
    asked = [leaf, *constants]
    gradients: list[Tensor | None] = [None] * len(asked)
    if logit.requires_grad:
        gradients = list(torch.autograd.grad(logit, asked, allow_unused=True))
    own, *others = gradients
    residuals: dict[str, float] = {}
    for (path, constant), gradient in zip(ledger.constants, others, strict=True):
        part = 0.0 if gradient is None else float((gradient * constant.detach()).sum())
        if part:
            residuals[path] = residuals.get(path, 0.0) + part
    contributions = 0.0 if own is None else float((own * leaf.detach()).sum())
    found = Account(logit=float(logit.detach()), contributions=contributions, residuals=residuals)
    if not found.remainder <= TOLERANCE:
        places = f", such as that before {ledger.cut_off[0]}" if ledger.cut_off else ""
        raise RequestError(
            f"contributions and constants leave {found.remainder:.1%} of a logit unexplained, because a function in a "
            f"forward is neither linear nor a gate{places}: replace it, or register a rule for it, see docs/bcosify.md"
        )
    return found


def _is_weight(value: object) -> bool:
    return isinstance(value, nn.Parameter) or isinstance(getattr(value, "_base", None), nn.Parameter)


@contextmanager
def _followed(network: nn.Module, ledger: _Ledger) -> Iterator[None]:
    """A context in which a ledger learns which module is being asked."""
    handles = []
    for path, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda one, _, path=path: ledger.enter(path, one)))
        handles.append(module.register_forward_hook(lambda *_: ledger.leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
