"""How a picture of any size becomes an image of the size that a model takes."""

from dataclasses import dataclass
from typing import Literal

from robustbench_bcos.core.errors import RequestError

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Resize, then crop out the middle.

    Raises:
        RequestError: the crop is larger than the resized images.
    """

    resize: int | None = None
    """Length of the shorter side in pixels; the longer one follows. ``None`` leaves images as large as they are."""
    crop: tuple[int, int] | None = None
    """Height and width of the part in the middle that is kept. ``None`` keeps everything."""
    interpolation: Interpolation = "bilinear"
    """Always with the filter widened where images become smaller (antialiasing)."""

    def __post_init__(self) -> None:
        if self.resize is not None and self.crop is not None and min(self.crop) > self.resize:
            raise RequestError(
                f"a crop to {by(self.crop)} pixels does not fit into images whose shorter side is resized to "
                f"{self.resize}: give a resize that is at least as large as crop"
            )

    def __str__(self) -> str:
        """In plain words; empty if images are taken as they are."""
        steps = []
        if self.resize is not None:
            steps.append(f"shorter side resized to {self.resize} pixels ({self.interpolation})")
        if self.crop is not None:
            steps.append(f"middle {by(self.crop)} cropped out")
        return ", ".join(steps)


def by(size: tuple[int, int]) -> str:
    """Height and width as a message writes them: ``224x224``."""
    return f"{size[0]}x{size[1]}"
