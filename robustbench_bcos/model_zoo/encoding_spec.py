"""Encodings as cards and the command line write them. Importing this imports no torch."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import ValidationError, model_validator

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.tables import Table

Constants = tuple[tuple[float, float, float], tuple[float, float, float]]
"""A mean and a standard deviation for each channel, in units of the pixel range."""

CONSTANTS: dict[str, Constants] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # To [-1, 1], and to [0, 255].
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "bytes": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""Constants by name: of two datasets, and of two other pixel ranges."""


NORMALIZE = "normalize"
"""How kinds that have constants begin."""


class EncodingSpec(Table):
    """The encoding's name and, for those that normalise, its constants in units of the pixel range."""

    kind: Literal["none", "add_inverse", "normalize", "normalize_add_inverse"]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _constants_belong_to_normalize(self) -> "EncodingSpec":
        given = self.mean is not None and self.std is not None
        if given != self.kind.startswith(NORMALIZE) or (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong to kind 'normalize' and kinds like it")
        return self

    @classmethod
    def parse(cls, text: str) -> "EncodingSpec":
        """``none``, ``add_inverse``, ``normalize:NAME`` of ``CONSTANTS``, or ``normalize:MEAN/DEVIATION``.

        ``normalize_add_inverse`` takes constants as ``normalize`` does.
        Both may be one number for all channels or three with commas between them.

        Raises:
            RequestError: it is none of these.
        """
        kind, _, constants = text.partition(":")
        if kind in (NORMALIZE, "normalize_add_inverse"):
            mean, std = _parse_constants(constants)
            return cls.model_validate({"kind": kind, "mean": mean, "std": std})
        if constants:
            raise RequestError(f"--encoding {text}: {kind} takes no constants, and normalize does: leave them out")
        try:
            return cls.model_validate({"kind": kind})
        except ValidationError:
            raise unknown("encoding", kind, get_args(cls.model_fields["kind"].annotation)) from None

    @property
    def constants(self) -> dict[str, tuple[float, float, float]]:
        """Arguments of the encoding's class."""
        return {} if self.mean is None or self.std is None else {"mean": self.mean, "std": self.std}

    @property
    def text(self) -> str:
        """As on the command line."""
        constants = "/".join(",".join(map(str, values)) for values in self.constants.values())
        return f"{self.kind}:{constants}" if constants else self.kind


def check_constants(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse what does not normalise three channels.

    Raises:
        RequestError: constants are not three, not finite, or a deviation is not positive.
    """
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise RequestError(
            f"encoding 'normalize' needs three means and three positive deviations, got {mean} and {std}"
        )


def _parse_constants(text: str) -> Constants:
    if text in CONSTANTS:
        return CONSTANTS[text]
    mean, _, deviation = text.partition("/")
    try:
        constants = _per_channel(mean), _per_channel(deviation)
    except ValueError:
        raise RequestError(
            f"--encoding normalize:{text} gives no mean and deviation: write normalize:0.485,0.456,0.406/"
            f"0.229,0.224,0.225, or one of {', '.join(f'normalize:{name}' for name in CONSTANTS)}"
        ) from None
    check_constants(*constants)
    (m0, m1, m2), (s0, s1, s2) = constants
    return (m0, m1, m2), (s0, s1, s2)


def _per_channel(text: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in text.split(","))
    return values * 3 if len(values) == 1 else values
