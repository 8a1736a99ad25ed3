"""Pictures of one's own: single files, and moving ones as an animation or a folder of frames."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageSequence
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Images
from robustbench_bcos.data.decoding import Decoded, as_rgb, check_exists, count_frames, opened
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

FRAME_MILLISECONDS = 100
"""Time a frame is shown where nothing says how long."""


class Frames(NamedTuple):
    """A moving picture."""

    images: Images
    milliseconds: tuple[int, ...]
    """How long each is shown."""


def read_images(
    files: Sequence[Path],
    size: tuple[int, int] | None,
    preprocessing: Preprocessing = AS_THEY_ARE,
    conversions: Counter[str] | None = None,
) -> Images:
    """Files as one batch in [0, 1], RGB.

    Args:
        files: in the order of the batch.
        size: height and width they must have in the end; by default those of the first.
        preprocessing: how they are resized and cropped.
        conversions: counts how files became 8-bit RGB, where that does not go without saying.

    Raises:
        RequestError: a file is missing, damaged, of another size, or does not say what its picture is.
    """
    images = []
    for file in files:
        image = _read(file, preprocessing, conversions)
        size = size or (image.shape[1], image.shape[2])
        _check_size(str(file), image, size)
        images.append(image)
    return torch.stack(images)


def is_moving(file: Path) -> bool:
    """Whether a path is a folder, or an image of several frames.

    Raises:
        RequestError: it is neither a folder nor an image.
    """
    if os.path.isdir(file):
        return True
    with _opened(file) as image:
        return count_frames(image) > 1


def read_frames(
    file: Path,
    size: tuple[int, int] | None,
    preprocessing: Preprocessing = AS_THEY_ARE,
    conversions: Counter[str] | None = None,
) -> Frames:
    """An animation, or a folder of frames in the order of their names.

    Raises:
        RequestError: there are fewer than two frames, or one is damaged or of another size.
    """
    read = _read_folder if file.is_dir() else _read_animation
    return read(file, size, preprocessing, conversions)


def _read_folder(
    folder: Path, size: tuple[int, int] | None, preprocessing: Preprocessing, conversions: Counter[str] | None
) -> Frames:
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        raise RequestError(f"{folder} cannot be listed ({error.strerror}): give a folder that may be read") from None
    if len(files) < 2:
        raise RequestError(f"{folder} holds {len(files)} frames: a moving picture needs at least two image files")
    images = read_images(files, size, preprocessing, conversions)
    return Frames(images, (FRAME_MILLISECONDS,) * len(images))


def _read_animation(
    file: Path, size: tuple[int, int] | None, preprocessing: Preprocessing, conversions: Counter[str] | None
) -> Frames:
    images, times = [], []
    with _opened(file) as animation:
        if count_frames(animation) < 2:
            raise RequestError(f"{file} holds one frame: a moving picture needs at least two")
        for number, frame in enumerate(ImageSequence.Iterator(animation)):
            name = f"frame {number} of {file}"
            image = preprocessing.pixels(_noted(as_rgb(frame, name), conversions), name)
            size = size or (image.shape[1], image.shape[2])
            _check_size(name, image, size)
            images.append(image)
            times.append(int(frame.info.get("duration", 0)) or FRAME_MILLISECONDS)
    return Frames(torch.stack(images), tuple(times))


def _read(file: Path, preprocessing: Preprocessing, conversions: Counter[str] | None) -> Tensor:
    with _opened(file) as image:
        return preprocessing.pixels(_noted(as_rgb(image, str(file)), conversions), str(file))


def _noted(decoded: Decoded, conversions: Counter[str] | None) -> Image.Image:
    if conversions is not None:
        conversions.update(decoded.conversions)
    return decoded.picture


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    check_exists(file)
    if os.path.isdir(file):
        raise RequestError(f"{file} is a folder: give it alone to explain its images as frames of a moving picture")
    with opened(file) as image:
        yield image


def _check_size(what: str, image: Tensor, size: tuple[int, int]) -> None:
    height, width = image.shape[1:]
    if (height, width) != size:
        raise RequestError(
            f"{what} has {height}x{width} pixels and {size[0]}x{size[1]} are needed: resize it, all to one size"
        )
