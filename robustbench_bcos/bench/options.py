"""The keyword parameters of ``evaluate``, for type checkers and editors.

Generated from ``RunConfig`` by ``python -m tools.options``: do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from robustbench_bcos.core.quantities import Quantity


class EvaluateOptions(TypedDict, total=False):
    """Options of the command line that make sense for a model and images in memory."""

    threat: str | Sequence[str]
    steps: int | Sequence[int]
    step_size: Quantity | str | float | None
    loss: str | Sequence[str]
    restarts: int | Sequence[int]
    start: Literal["image", "random"]
    select: Literal["first_success", "last", "best_loss"]
    queries: int
    targets: int
    option: Mapping[str, Any]
    criterion: str
    target: str | None
    space: Literal["image", "encoded"]
    evidence: Literal["quick", "full", "off"]
    independent_cells: bool
    skip_model_checks: bool
    eot: int
    channels: int | None
    explained: int | None
    explanation: str
    goal: str | Sequence[str]
    method: str | Sequence[str]
    confidence_band: float | None
    batch_size: int | None
    device: str
    compile: bool
    memory_format: Literal["auto", "contiguous", "channels_last"]
    precision: Literal["fp32", "tf32", "bf16"]
    seed: int
    plugin: Path | Sequence[Path]
