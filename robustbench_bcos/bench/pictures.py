"""What is kept of an image to be looked at: as it was and as it was attacked, with what the model made of each."""

import io
import zlib
from dataclasses import dataclass
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class View(NamedTuple):
    """An image as a model sees it."""

    pixels: Array
    """RGB in [0, 1], (3, height, width)."""
    explanation: Array
    """RGBA in [0, 1], (height, width, 4)."""
    contributions: Array
    """Signed, (height, width)."""
    prediction: int
    """The class predicted, and explained."""
    confidence: float
    """Its probability."""


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """One image and, where there was an attack, what became of it."""

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
            f"{name}_{field}": np.asarray(value) for name, view in views.items() for field, value in _fields(view)
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
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                attacked = _view(arrays, "attacked") if "attacked_pixels" in arrays else None
                return cls(image, label, _view(arrays, "clean"), attacked)
        except (KeyError, ValueError, TypeError, OSError, EOFError, RuntimeError, BadZipFile, zlib.error):
            # NumPy's own words recommend pickles.
            raise ValueError("not an archive of views") from None


def _fields(view: View) -> list[tuple[str, object]]:
    return list(view._asdict().items())


def _view(arrays: "np.lib.npyio.NpzFile", name: str) -> View:
    pixels, explanation, contributions = (
        arrays[f"{name}_{field}"].astype(np.float32) for field in ("pixels", "explanation", "contributions")
    )
    return View(
        pixels, explanation, contributions, int(arrays[f"{name}_prediction"]), float(arrays[f"{name}_confidence"])
    )
