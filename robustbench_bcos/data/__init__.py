"""Where images come from: datasets, and the fixed evaluation subset of one that a run uses."""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.data.dataset import AbstractNamedDataset

DATASETS: "Registry[type[AbstractNamedDataset]]" = Registry(
    "dataset", package="robustbench_bcos.data.datasets", group="robustbench_bcos.datasets"
)
"""What ``--dataset`` opens by name: one class in one module each, which imports torch only when it is opened."""
