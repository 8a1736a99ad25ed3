"""Quotients whose denominator depends on the image."""

from collections.abc import Mapping
from typing import Any, final

from robustbench_bcos.model_zoo.bcosify import RULES
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule, Function, constant, depends


@final
@RULES.registered("quotients")
class Quotients(AbstractRule):
    """The denominator is a constant in explanation mode."""

    functions = ("div", "divide", "true_divide", "__truediv__", "__rtruediv__", "__itruediv__", "__div__")

    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """The quotient."""
        args = tuple(args)
        # torch hands over a number that a tensor divides as the second of the two.
        place = 0 if function.__name__ == "__rtruediv__" else 1
        if len(args) > place and depends(args[place]):
            args = (*args[:place], constant(args[place]), *args[place + 1 :])
        return function(*args, **kwargs)
