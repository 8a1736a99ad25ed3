"""Where ``--executor`` has the work of a run done: one module per executor, under its name."""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.bench.executor import AbstractExecutor

EXECUTORS: "Registry[type[AbstractExecutor]]" = Registry(
    "executor", package=__name__, group="robustbench_bcos.executors"
)
