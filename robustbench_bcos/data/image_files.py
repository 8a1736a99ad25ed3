"""Pictures of one's own: single files, and moving ones as an animation or a folder of frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageSequence
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Images

FRAME_MILLISECONDS = 100
"""Time a frame is shown where nothing says how long."""

MODES = {"L": "grey", "1": "black and white", "P": "a palette image", "CMYK": "CMYK", "F": "floating-point"}


class Frames(NamedTuple):
    """A moving picture."""

    images: Images
    milliseconds: tuple[int, ...]
    """How long each is shown."""


def read_images(files: Sequence[Path], size: tuple[int, int] | None) -> Images:
    """8-bit RGB files as one batch in [0, 1].

    Args:
        files: in the order of the batch.
        size: height and width they must have; by default those of the first.

    Raises:
        RequestError: a file is missing, damaged, of another size, or not 8-bit RGB.
    """
    images = []
    for file in files:
        image = _read(file)
        size = size or (image.shape[1], image.shape[2])
        _check_size(str(file), image, size)
        images.append(image)
    return torch.stack(images)


def is_moving(file: Path) -> bool:
    """Whether a path is a folder, or an image of several frames.

    Raises:
        RequestError: it is neither a folder nor an image.
    """
    if file.is_dir():
        return True
    with _opened(file) as image:
        return getattr(image, "n_frames", 1) > 1


def read_frames(file: Path, size: tuple[int, int] | None) -> Frames:
    """An animation, or a folder of frames in the order of their names.

    Raises:
        RequestError: there are fewer than two frames, or one is damaged or of another size.
    """
    return _read_folder(file, size) if file.is_dir() else _read_animation(file, size)


def _read_folder(folder: Path, size: tuple[int, int] | None) -> Frames:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if len(files) < 2:
        raise RequestError(f"{folder} holds {len(files)} frames: a moving picture needs at least two image files")
    images = read_images(files, size)
    return Frames(images, (FRAME_MILLISECONDS,) * len(images))


def _read_animation(file: Path, size: tuple[int, int] | None) -> Frames:
    images, times = [], []
    with _opened(file) as animation:
        try:
            for number, frame in enumerate(ImageSequence.Iterator(animation)):
                # Palettes belong to the format and not to the picture.
                image = _pixels(frame.convert("RGB"))
                size = size or (image.shape[1], image.shape[2])
                _check_size(f"frame {number} of {file}", image, size)
                images.append(image)
                times.append(int(frame.info.get("duration", 0)) or FRAME_MILLISECONDS)
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(file, error) from None
    return Frames(torch.stack(images), tuple(times))


def _read(file: Path) -> Tensor:
    with _opened(file) as image:
        if image.mode != "RGB":
            kind = MODES.get(image.mode, "16-bit" if image.mode.startswith("I") else f"of mode {image.mode}")
            kind = "partly transparent" if image.mode.endswith("A") or image.mode == "La" else kind
            raise RequestError(f"{file} is {kind}: convert it to 8-bit RGB without transparency")
        try:
            return _pixels(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(file, error) from None


def _opened(file: Path) -> Image.Image:
    if not file.exists():
        raise RequestError(f"{file} does not exist: give image files, an animation, or a folder of frames")
    if file.is_dir():
        raise RequestError(f"{file} is a folder: give it alone to explain its images as frames of a moving picture")
    try:
        return Image.open(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(file, error) from None


def _pixels(image: Image.Image) -> Tensor:
    pixels: Tensor = pil_to_tensor(image)
    return pixels.to(torch.float32) / 255


def _check_size(what: str, image: Tensor, size: tuple[int, int]) -> None:
    height, width = image.shape[1:]
    if (height, width) != size:
        raise RequestError(
            f"{what} has {height}x{width} pixels and {size[0]}x{size[1]} are needed: resize it, all to one size"
        )


def _damaged(file: Path, error: Exception) -> RequestError:
    return RequestError(f"image {file} cannot be decoded ({error}): replace it or take it out")
