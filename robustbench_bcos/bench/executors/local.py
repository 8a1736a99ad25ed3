"""This process, with a thread for each model that is worked on."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, final

from robustbench_bcos.bench.executor import AbstractExecutor
from robustbench_bcos.bench.executors import EXECUTORS

if TYPE_CHECKING:
    from robustbench_bcos.bench.progress import Progress
    from robustbench_bcos.bench.request import Request
    from robustbench_bcos.bench.store import Store


@final
@EXECUTORS.registered("local")
class Local(AbstractExecutor):
    """Needs nothing, and is used where nothing else is asked for."""

    @classmethod
    def for_several(cls) -> type[AbstractExecutor]:
        """Processes: threads of one would wait for each other's steps."""
        return EXECUTORS["processes"]

    @classmethod
    def execute(cls, request: "Request", store: "Store", folder: Path) -> "Iterator[Progress]":
        """By the runner."""
        from robustbench_bcos.bench.runner import execute

        return execute(request, store)
