"""Why a model decided: methods of explanation, and measures of how similar two explanations are.

Both are registries that a plug-in file or an installed package can add to. Names of methods are known without torch.
"""

from typing import TYPE_CHECKING, Any

from robustbench_bcos.core.registry import Registry, as_known, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from robustbench_bcos.core.types import Logits
    from robustbench_bcos.explanations.method import AbstractMethod
    from robustbench_bcos.explanations.similarity import MEASURES as MEASURES

    Contrast = Callable[[Logits], Tensor]

__all__ = ["CONTRASTS", "MEASURES", "METHODS", "contrast_named", "method_names"]

METHODS: "Registry[AbstractMethod]" = Registry(
    "explanation method",
    package="robustbench_bcos.explanations.methods",
    group="robustbench_bcos.explanation_methods",
    instances=True,
)


CONTRASTS: "Registry[Contrast]" = Registry(
    "contrast", package="robustbench_bcos.explanations.contrasts", group="robustbench_bcos.contrasts"
)
"""What a logit is compared with before it is explained, by name."""


def contrast_named(name: str) -> str:
    """The contrast's name as the registry has it.

    Raises:
        RequestError: there is none.
    """
    if (known := as_known(name, CONTRASTS)) not in CONTRASTS:
        raise unknown("contrast", name, CONTRASTS)
    return known


def method_names() -> tuple[str, ...]:
    """Everything that a user may ask for: ``auto``, and each method."""
    return ("auto", *METHODS)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Tables have their columns in the order in which measures are registered, so that one module registers the built-in
    # ones. It needs torch, and is imported when MEASURES is first used.
    if name == "MEASURES":
        from robustbench_bcos.explanations.similarity import MEASURES

        return MEASURES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
