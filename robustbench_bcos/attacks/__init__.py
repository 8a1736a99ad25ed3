"""How an adversary searches: norms, criteria, goals, losses and attacks. Attacks know a callable, never a model.

The registries know names without importing torch. A norm, criterion, goal, loss or attack is one module of its package.
"""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry, as_known, unknown

if TYPE_CHECKING:
    from robustbench_bcos.attacks.attack import AbstractAttack
    from robustbench_bcos.attacks.criterion import AbstractCriterion
    from robustbench_bcos.attacks.goal import AbstractGoal
    from robustbench_bcos.attacks.loss import Loss
    from robustbench_bcos.attacks.norm import AbstractNorm

UNTARGETED = "misclassified"
"""The criterion that holds where nothing else is asked for."""

TARGETED = "targeted"
"""The criterion that needs a target."""

PREDICTION = "prediction"
"""What every attack moves where nothing else is asked for."""

OF_MAPS = "explanation"
"""Before the name of a goal for maps and a colon, where goals are written; alone it is the farthest map."""

FARTHEST = "away"
"""The goal that is the farthest map."""

NORMS: "Registry[AbstractNorm]" = Registry(
    "norm", package=f"{__name__}.norms", group="robustbench_bcos.norms", instances=True
)
CRITERIA: "Registry[type[AbstractCriterion]]" = Registry(
    "criterion", package=f"{__name__}.criteria", group="robustbench_bcos.criteria"
)
GOALS: "Registry[AbstractGoal]" = Registry(
    "goal", package=f"{__name__}.goals", group="robustbench_bcos.goals", instances=True
)
LOSSES: "Registry[Loss]" = Registry("loss", package=f"{__name__}.losses", group="robustbench_bcos.losses")
ATTACKS: "Registry[type[AbstractAttack]]" = Registry(
    "attack", package=f"{__name__}.searches", group="robustbench_bcos.attacks"
)


def goal_text(name: str) -> str:
    """How a goal for maps is written: ``explanation:away``."""
    return f"{OF_MAPS}:{name}"


def map_goal(written: str) -> str:
    """The name of a goal for maps, from how it is written."""
    return FARTHEST if written == OF_MAPS else written.removeprefix(f"{OF_MAPS}:")


def goal_names() -> tuple[str, ...]:
    """Everything that an attack may move, as it is written."""
    return (PREDICTION, OF_MAPS, *map(goal_text, GOALS))


def norm_name(written: str | int | float) -> str:
    """The name of a norm, as the field writes it: ``l2``, ``L2``, ``Linf``, ``L_inf``, or by its order, 2 or infinity.

    Raises:
        RequestError: no such norm.
    """
    text = f"{written:g}" if isinstance(written, int | float) else written.strip()
    for name in (text, f"l{text}"):
        if (known := as_known(name, NORMS)) in NORMS:
            return known
    raise unknown("norm", text, NORMS)
