"""Pictures of a run: an image and its adversarial example, each with its prediction and explanation."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from robustbench_bcos.core.archives import read_arrays

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class View:
    """An image with its prediction and the explanation of one class."""

    pixels: Array
    """RGB in [0, 1], (3, height, width)."""
    explanation: Array
    """RGBA in [0, 1], (height, width, 4)."""
    contributions: Array
    """Signed, (height, width)."""
    prediction: int
    """The class predicted, or ``NO_CLASS``."""
    confidence: float
    """Its probability."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Picture:
    """One image and, where there was an attack, its adversarial example."""

    image: int
    """Index in the dataset."""
    label: int | None
    clean: View
    attacked: View | None

    @property
    def wrong_before(self) -> bool:
        """Whether the clean image was misclassified, so that an attack had nothing to change."""
        return self.label is not None and self.clean.prediction != self.label

    def to_bytes(self) -> bytes:
        """The views as a compressed NumPy archive."""
        views = {"clean": self.clean} | ({} if self.attacked is None else {"attacked": self.attacked})
        arrays = {
            f"{name}_{field.name}": np.asarray(getattr(view, field.name))
            for name, view in views.items()
            for field in fields(view)
        }
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, image: int, label: int | None, content: bytes) -> "Picture":
        """The inverse of :meth:`to_bytes`.

        Raises:
            ValueError: the content is not what ``to_bytes`` gives.
        """
        try:
            arrays = read_arrays(content)
            attacked = _view(arrays, "attacked") if "attacked_pixels" in arrays else None
            return cls(image=image, label=label, clean=_view(arrays, "clean"), attacked=attacked)
        except (KeyError, ValueError, TypeError):
            raise ValueError("not an archive of views") from None


def _view(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> View:
    return View(
        pixels=arrays[f"{name}_pixels"].astype(np.float32),
        explanation=arrays[f"{name}_explanation"].astype(np.float32),
        contributions=arrays[f"{name}_contributions"].astype(np.float32),
        prediction=int(arrays[f"{name}_prediction"]),
        confidence=float(arrays[f"{name}_confidence"]),
    )
