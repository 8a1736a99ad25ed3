"""Ordinary differential equations: how they are solved, and systems whose solutions are known.

The registries know names without importing torch. A solver or a system is one module of its package.
"""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.dynamics.solver import AbstractSolver
    from robustbench_bcos.dynamics.system import AbstractSystem

SOLVERS: "Registry[type[AbstractSolver]]" = Registry(
    "solver", package=f"{__name__}.solvers", group="robustbench_bcos.solvers"
)
SYSTEMS: "Registry[AbstractSystem]" = Registry(
    "system", package=f"{__name__}.systems", group="robustbench_bcos.systems", instances=True
)
