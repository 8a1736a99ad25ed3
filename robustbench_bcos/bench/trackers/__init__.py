"""Where ``--log`` sends a finished run: one module per tracker, under its name."""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.bench.tracker import AbstractTracker

TRACKERS: "Registry[AbstractTracker]" = Registry(
    "tracker", package=__name__, group="robustbench_bcos.trackers", instances=True
)
