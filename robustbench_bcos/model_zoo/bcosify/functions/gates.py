"""Functions that are their input times a gate."""

from collections.abc import Mapping
from typing import Any, final

import torch

from robustbench_bcos.model_zoo.bcosify import RULES
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule, Function, constant, constants, depends


@final
@RULES.registered("gates")
class Gates(AbstractRule):
    """f(x) = g(x) x with a gate g that is a constant in explanation mode, for every f with f(0) = 0.

    ReLU needs no rule, because its gate is its derivative already. The scale of a norm without mean is a gate, too.
    """

    functions = (
        *("gelu", "silu", "hardswish", "mish", "elu", "celu", "selu", "tanh", "softsign", "tanhshrink"),
        *("relu6", "hardtanh", "clamp", "clip", "hardshrink", "softshrink"),
        *("rms_norm", "normalize", "local_response_norm"),
    )

    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """The input times its gate."""
        features, *rest = args if args else (kwargs["input"],)
        if not depends(features):
            return function(*args, **kwargs)
        settings = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        with constants():
            # Where x is 0, the gate is the slope there, which the least x that can be divided by shows.
            least = torch.finfo(features.dtype).tiny ** 0.5
            none = features.abs() < least
            safe = torch.where(none, torch.full_like(features, least), features)
            gate = function(safe.clone(), *rest, **settings) / safe
            # A length that is kept from 0 is no multiple of it there.
            at_none = function(torch.zeros_like(features), *rest, **settings) if none.any() else None
        made = features * constant(gate)
        return made if at_none is None or not at_none.any() else torch.where(none, constant(at_none), made)
