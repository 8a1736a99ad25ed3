"""Products and quotients of two values that both depend on the image."""

from collections.abc import Mapping
from typing import Any, final

from torch import nn

from robustbench_bcos.model_zoo.bcosify import RULES
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule, Function, constant, depends


@final
@RULES.registered("products")
class Products(AbstractRule):
    """Of two factors the smaller one, and of equal ones the first, is a constant in explanation mode.

    The smaller one is the gate of squeeze-and-excitation, and the first one that of gated linear units.
    """

    functions = ("mul", "__mul__", "__rmul__", "__imul__", "multiply")

    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """The product."""
        if len(args) != 2 or not all(depends(factor) and not isinstance(factor, nn.Parameter) for factor in args):
            return function(*args, **kwargs)
        first, second = args
        if second.numel() < first.numel() or function.__name__ in ("__imul__", "mul_"):
            return function(first, constant(second), **kwargs)
        return function(constant(first), second, **kwargs)
