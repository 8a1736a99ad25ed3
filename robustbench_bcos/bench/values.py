"""How the values of options are written in Python and on the command line, and what each is made into."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from robustbench_bcos.attacks import CRITERIA, norm_name
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity, as_written
from robustbench_bcos.core.registry import as_known, unknown

T = TypeVar("T")


def several(given: Any) -> Any:  # noqa: ANN401 (values before they are checked)
    """Make a list of a single value or of an array."""
    values = as_written(given)
    return (values,) if isinstance(values, str | int | float | Path | Quantity) else values


def _index(given: Any) -> Any:  # noqa: ANN401
    if not str(given).isdecimal():
        raise RequestError(f"images {given!r} is not the index of an image: give numbers from 0, such as 3, 14, 15")
    return given


def _channels(channels: int) -> int:
    if channels not in (1, 3):
        raise RequestError(f"channels {channels} must be 1 or 3: images are grey or RGB")
    return channels


def _positive(step_size: Quantity) -> Quantity:
    if step_size.value == 0:
        raise RequestError(f"step_size {step_size} must be positive: leave it out for 2.5 * eps / steps")
    return step_size


def _not_zero(sigma: Quantity) -> Quantity:
    if sigma.value == 0:
        raise RequestError(f"certify_sigma {sigma} must be positive: without noise nothing is smoothed")
    return sigma


def name_of_norm(given: Any) -> Any:  # noqa: ANN401
    """By any way of writing it; anything that is no name is left for pydantic to refuse."""
    return norm_name(given) if isinstance(given, str | int | float) else given


def _threat(given: Any) -> str:  # noqa: ANN401
    """``NORM:EPS``, from text of this form, or as a threat prints."""
    norm, *eps = re.split(r"[:\s]+", str(given).strip(), maxsplit=1)
    if not norm or not eps:
        raise RequestError(f"threat {str(given)!r} must be NORM:EPS: linf:8/255, say")
    return f"{norm_name(norm)}:{Quantity.of(eps[0])}"


def _criterion(given: Any) -> str:  # noqa: ANN401
    """``NAME`` or ``NAME:ARGUMENT``."""
    written, colon, argument = str(given).partition(":")
    name = as_known(written, CRITERIA)
    if name not in CRITERIA:
        raise unknown("criterion", written, CRITERIA)
    return f"{name}{colon}{argument}"


AsText = PlainSerializer(str, return_type=str)
Epsilon = Annotated[Quantity, BeforeValidator(partial(Quantity.of, name="eps")), AsText]
StepSize = Annotated[
    Quantity, BeforeValidator(partial(Quantity.of, name="step_size")), AfterValidator(_positive), AsText
]
Sigma = Annotated[
    Quantity, BeforeValidator(partial(Quantity.of, name="certify_sigma")), AfterValidator(_not_zero), AsText
]
Index = Annotated[int, BeforeValidator(_index)]
Norm = Annotated[str, BeforeValidator(name_of_norm)]
CriterionText = Annotated[str, BeforeValidator(_criterion)]
ThreatText = Annotated[str, BeforeValidator(_threat)]
Positive = Annotated[int, Field(ge=1)]
Channels = Annotated[int, AfterValidator(_channels)]
Several = Annotated[tuple[T, ...], BeforeValidator(several)]
Listed = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(several)]
