"""Functions whose values are factors of something else."""

from collections.abc import Mapping
from typing import Any, final

from robustbench_bcos.model_zoo.bcosify import RULES
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule, Function, constant, constants, depends


@final
@RULES.registered("constants")
class Constants(AbstractRule):
    """Constants in explanation mode: shares of attention, gates of their own, norms and deviations."""

    functions = (
        *("softmax", "softmin", "log_softmax", "gumbel_softmax", "sigmoid", "logsigmoid", "hardsigmoid", "softplus"),
        *(
            "exp",
            "expm1",
            "log",
            "log1p",
            "erf",
            "sin",
            "cos",
            "reciprocal",
            "rsqrt",
            "sqrt",
            "square",
            "pow",
            "__pow__",
        ),
        *("__rpow__", "var", "std", "norm", "vector_norm", "matrix_norm", "cosine_similarity", "logsumexp"),
        *("cdist", "dist", "prod", "cumprod", "var_mean", "std_mean"),
    )

    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """The value alone."""
        if function.__name__ in ("var_mean", "std_mean"):
            # Means are linear.
            deviation, mean = function(*args, **kwargs)
            return constant(deviation), mean
        with constants():
            copies = [value.clone() if depends(value) else value for value in args]
            return constant(function(*copies, **kwargs))
