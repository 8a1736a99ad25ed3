"""Single-precision networks computed in double precision, without a second copy of their weights."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


class InDouble(TorchFunctionMode):
    """A context in which every function gets its tensors, weights too, in double precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func.__name__ not in ("__get__", "__set__"):  # Of shapes and the like.
            args, kwargs = tree_map(_exact, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _exact(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        with torch._C.DisableTorchFunction():
            return value.double()
    return value
