"""Checks that could refute a number: what they do, on which images, and what follows for the row it stands in.

A check is one module of :mod:`~robustbench_bcos.bench.evidence.checks`.
"""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.bench.evidence.check import AbstractCheck

CHECKS: "Registry[AbstractCheck]" = Registry(
    "check", package=f"{__name__}.checks", group="robustbench_bcos.checks", instances=True
)
