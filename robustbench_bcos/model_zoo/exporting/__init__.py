"""Networks as files for other programs, compared with the model before they are written."""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.model_zoo.exporting.format import AbstractFormat

FORMATS: "Registry[AbstractFormat]" = Registry(
    "format",
    package="robustbench_bcos.model_zoo.exporting.formats",
    group="robustbench_bcos.export_formats",
    instances=True,
)
"""What ``export --format`` writes: one class in one module each, which imports torch only when it is used."""
