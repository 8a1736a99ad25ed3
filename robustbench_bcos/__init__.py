"""Robust accuracies of B-cos networks and their baselines that can be trusted.

The names below are loaded when they are first used, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_bcos.attacks import ATTACKS as ATTACKS
    from robustbench_bcos.attacks import CRITERIA as CRITERIA
    from robustbench_bcos.attacks import LOSSES as LOSSES
    from robustbench_bcos.attacks import NORMS as NORMS
    from robustbench_bcos.attacks.searches.apgd import APGD as APGD
    from robustbench_bcos.attacks.searches.autoattack import AutoAttack as AutoAttack
    from robustbench_bcos.attacks.searches.fab import FAB as FAB
    from robustbench_bcos.attacks.searches.noise import Noise as Noise
    from robustbench_bcos.attacks.searches.pgd import PGD as PGD
    from robustbench_bcos.attacks.searches.square import Square as Square
    from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD as TargetedAPGD
    from robustbench_bcos.attacks.threat import Threat as Threat
    from robustbench_bcos.bench.evaluation import evaluate as evaluate
    from robustbench_bcos.core.errors import RequestError as RequestError
    from robustbench_bcos.explanations.explanation import explain as explain
    from robustbench_bcos.model_zoo.bcos.folding import fold as fold
    from robustbench_bcos.model_zoo.classifier import freeze as freeze
    from robustbench_bcos.model_zoo.models import load_model as load_model

_HOMES = {
    "APGD": "attacks.searches.apgd",
    "ATTACKS": "attacks",
    "AutoAttack": "attacks.searches.autoattack",
    "CRITERIA": "attacks",
    "FAB": "attacks.searches.fab",
    "LOSSES": "attacks",
    "NORMS": "attacks",
    "Noise": "attacks.searches.noise",
    "PGD": "attacks.searches.pgd",
    "RequestError": "core.errors",
    "Square": "attacks.searches.square",
    "TargetedAPGD": "attacks.searches.apgd_targeted",
    "Threat": "attacks.threat",
    "evaluate": "bench.evaluation",
    "explain": "explanations.explanation",
    "fold": "model_zoo.bcos.folding",
    "freeze": "model_zoo.classifier",
    "load_model": "model_zoo.models",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
