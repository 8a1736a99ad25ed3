"""Robust accuracies of B-cos networks and their baselines that can be trusted.

The names below are loaded when they are first used, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_bcos.attacks import losses as losses
    from robustbench_bcos.attacks import norms as norms
    from robustbench_bcos.attacks.apgd import APGD as APGD
    from robustbench_bcos.attacks.ensemble import Ensemble as Ensemble
    from robustbench_bcos.attacks.fab import FAB as FAB
    from robustbench_bcos.attacks.noise import Noise as Noise
    from robustbench_bcos.attacks.pgd import PGD as PGD
    from robustbench_bcos.attacks.square import Square as Square
    from robustbench_bcos.bench.evaluation import evaluate as evaluate
    from robustbench_bcos.core.errors import RequestError as RequestError
    from robustbench_bcos.explanations.explanation import explain as explain
    from robustbench_bcos.model_zoo.bcos.folding import fold as fold
    from robustbench_bcos.model_zoo.classifier import freeze as freeze
    from robustbench_bcos.model_zoo.models import load_model as load_model

_HOMES = {
    "APGD": "attacks.apgd",
    "Ensemble": "attacks.ensemble",
    "FAB": "attacks.fab",
    "Noise": "attacks.noise",
    "PGD": "attacks.pgd",
    "RequestError": "core.errors",
    "Square": "attacks.square",
    "norms": "attacks",
    "evaluate": "bench.evaluation",
    "explain": "explanations.explanation",
    "fold": "model_zoo.bcos.folding",
    "freeze": "model_zoo.classifier",
    "load_model": "model_zoo.models",
    "losses": "attacks",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"{__name__}.{_HOMES[name]}"
    if name in ("norms", "losses"):
        return import_module(f"{home}.{name}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
