"""What a kind of function is in explanation mode, so that a network stays a linear map of its image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_bcos.model_zoo.bcos.explanation_mode import detaching, held

Function = Callable[..., Any]


class AbstractRule(ABC):
    """Replaces functions by what has their value and the gradient of a linear map; registered in ``RULES``.

    It serves functions, methods of tensors and modules alike, because modules call functions.
    """

    name: ClassVar[str]
    functions: ClassVar[tuple[str, ...]]
    """Names, without the underscore that marks an operation in place."""

    @abstractmethod
    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """The function's value.

        Args:
            function: as torch would call it.
            args: as it is called with.
            kwargs: as it is called with.
        """


def depends(value: object) -> bool:
    """Whether a value depends on the image."""
    return isinstance(value, Tensor) and value.requires_grad


def constant(value: Any) -> Any:  # noqa: ANN401
    """A value that is a constant in explanation mode; of what may be changed in place, a copy."""
    return held(value).clone() if depends(value) else value


def constants() -> AbstractContextManager[object]:
    """A context in which constants are computed: without a graph, unless gates hold them."""
    return torch.no_grad() if detaching() else nullcontext()
