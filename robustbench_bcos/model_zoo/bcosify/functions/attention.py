"""Attention as one function."""

from collections.abc import Mapping
from typing import Any, final

from robustbench_bcos.model_zoo.bcosify import RULES
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule, Function, constant


@final
@RULES.registered("attention")
class ScaledDotProduct(AbstractRule):
    """Queries and keys are constants in explanation mode, so that attention is a constant mixing of values."""

    functions = ("scaled_dot_product_attention",)

    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Mix the values."""
        given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
        given |= kwargs
        fixed = {name: constant(given[name]) for name in ("query", "key", "attn_mask") if name in given}
        return function(**given | fixed)
