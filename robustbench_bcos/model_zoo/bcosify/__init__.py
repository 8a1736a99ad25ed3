"""B-cosification (Arya et al., 2024): a conventional network becomes a B-cos one, layer by layer.

What a kind of layer becomes is one file in ``layers``, and what a kind of function is in explanation mode one file in
``functions``; installed packages add more through the entry points ``robustbench_bcos.bcosify_layers`` and
``robustbench_bcos.bcosify_functions``.
"""

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule

CONVERTERS: Registry[AbstractConverter] = Registry(
    "converter of layers",
    package="robustbench_bcos.model_zoo.bcosify.layers",
    group="robustbench_bcos.bcosify_layers",
    instances=True,
)
"""What conventional layers become, by kind."""

RULES: Registry[AbstractRule] = Registry(
    "rule for functions",
    package="robustbench_bcos.model_zoo.bcosify.functions",
    group="robustbench_bcos.bcosify_functions",
    instances=True,
)
"""What functions are in explanation mode, by kind."""
