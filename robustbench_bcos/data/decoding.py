"""The only module that opens image files. What a file means is made 8-bit RGB, or refused where the file does not say.

A damaged file is named, and nothing in a file is executed.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from robustbench_bcos.core.errors import RequestError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Pillow knows more, and hands PostScript, which is a program, to an interpreter."""

CONVERT = "convert it to 8-bit RGB without transparency"

FEW_BITS = 4096
"""A 16-bit picture all of whose levels are below this is likely to hold 12 bits or less, which no reader can tell."""

ORIENTATION = 0x0112
"""The tag that says how a camera was held; 1 is upright."""

PHOTOMETRIC, WHITE_IS_ZERO = 0x0106, 0
"""The tag of TIFF that says what a level of 0 is."""

SAMPLE_FORMAT, UNSIGNED = 0x0153, 1
"""The tag of TIFF that says whether levels may be negative."""

MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "LA", "La", "PA", "RGBA", "RGBa")
"""Of Pillow, with 8 bits or less."""


class Decoded(NamedTuple):
    """A picture, and what was done to it that does not go without saying."""

    picture: Image.Image
    """8-bit RGB."""
    conversions: tuple[str, ...]
    """Each as the end of a sentence that begins with a count of images: ``cut from 16 bits to 8``."""


def notes_of(conversions: Counter[str]) -> tuple[str, ...]:
    """A sentence for each kind of conversion, with the number of images."""
    return tuple(f"Images {kind}: {count}." for kind, count in sorted(conversions.items()))


def check_picture(file: Path) -> None:
    """Refuse what is neither a folder nor a file that begins as a picture does.

    Raises:
        RequestError: it is not.
    """
    check_exists(file)
    if file.is_file():
        with opened(file):
            pass


def check_exists(file: Path) -> None:
    """Refuse a file or folder that is not there.

    Raises:
        RequestError: it is not.
    """
    if not os.path.exists(file):
        raise RequestError(f"{file} does not exist: give image files, an animation, or a folder of frames")


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """An image file, whatever its mode; any failure while it is open counts as damage.

    Raises:
        RequestError: it cannot be decoded.
    """
    try:
        # Where a warning of Pillow's matters, an error follows.
        with warnings.catch_warnings(action="ignore"):
            _check_sums(file)
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except RequestError:
        raise
    except Exception as error:  # Pillow raises nearly anything over a damaged file.
        raise RequestError(f"image {file} cannot be decoded ({error}): replace it or take it out") from None


def _check_sums(file: Path) -> None:
    """Those of a PNG's chunks, which Pillow passes over where it decodes: a damaged level would be another level."""
    with Image.open(file, formats=FORMATS) as image:
        if image.format == "PNG":
            image.verify()


def is_image(file: Path) -> bool:
    """Whether a file is meant as an image: by its name, or by its content where the name says nothing.

    A file that is called an image and cannot be decoded is one that is damaged, and not one to pass over.
    """
    if file.suffix.lower() in _suffixes():
        return True
    try:
        with opened(file):
            return True
    except RequestError:
        return False


def count_frames(image: Image.Image) -> int:
    """How many pictures a file shows; previews that cameras put behind a photo do not count."""
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def decode_rgb(file: Path, *, as_torchvision: bool = False) -> Decoded:
    """A file of one picture, as :func:`as_rgb` converts it.

    Raises:
        RequestError: it cannot be decoded, or does not say what its picture is.
    """
    with opened(file) as image:
        if count_frames(image) > 1:
            raise RequestError(
                f"image {file} holds {count_frames(image)} frames or pages: save the one that is meant in its own file"
            )
        return as_rgb(image, f"image {file}", as_torchvision=as_torchvision)


def as_rgb(image: Image.Image, name: str, *, as_torchvision: bool = False) -> Decoded:
    """A picture of any mode as 8-bit RGB: grey is repeated, palettes are looked up, CMYK is mixed, 16 bits are cut.

    Args:
        image: opened, and not yet decoded.
        name: what a refusal calls it.
        as_torchvision: ignore orientation tags and drop transparency, as torchvision's loader does. Published numbers
            on ImageNet were measured so. By default a picture is turned upright, and refused if it is see-through.

    Raises:
        RequestError: nothing tells what range its levels have, or what is behind its transparent parts.
    """
    deep = _is_16_bit(image)
    if not deep and (image.mode not in MODES or _signed(image)):
        raise RequestError(f"{name} is {_kind(image)}, whose black and white nothing tells: {CONVERT}")
    see_through = _see_through(image)
    if see_through and not as_torchvision:
        raise RequestError(
            f"{name} is partly transparent, and nothing tells what is behind it: flatten it onto the background that "
            "the models know"
        )
    orientation = image.getexif().get(ORIENTATION, 1)
    turned = orientation in range(2, 9)
    picture = _cut(image, name) if deep and image.mode.startswith("I") else image.convert("RGB")
    if turned and not as_torchvision:
        picture.getexif()[ORIENTATION] = orientation
        picture = ImageOps.exif_transpose(picture)
    conversions = {
        "cut from 16 bits to 8": deep,
        "mixed from CMYK, without its colour profile": image.mode == "CMYK",
        "turned upright": turned and not as_torchvision,
        "as it was stored, and not turned as its tag says": turned and as_torchvision,
        "partly transparent, and its transparency dropped": see_through,
    }
    return Decoded(picture, tuple(kind for kind, done in conversions.items() if done))


def _cut(image: Image.Image, name: str) -> Image.Image:
    """Grey levels of 16 bits in 8, rounded: Pillow's own conversion takes all that are above 255 for white."""
    import numpy as np

    if _tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise RequestError(f"{name} has 16 bits and 0 for white, which is not read rightly: {CONVERT}")
    levels = np.asarray(image).astype(np.int64)
    highest = int(levels.max())
    if 0 < highest < FEW_BITS:
        raise RequestError(
            f"{name} has 16 bits and no level above {highest} of 65535, so what counts as white cannot be told: scale "
            "it to its full range, or " + CONVERT
        )
    return Image.fromarray(np.round(levels / 257).astype(np.uint8)).convert("RGB")


def _is_16_bit(image: Image.Image) -> bool:
    # Colours of 16 bits are cut to 8 without a word: only the decoder's arguments show them. Grey is of mode I in
    # some formats, where Pillow has scaled it to 65535.
    arguments = [str(tile.args) for tile in getattr(image, "tile", ())]
    if image.mode.startswith("I;16") or any(";16" in text and "16S" not in text for text in arguments):
        return True
    return image.format == "PPM" and (image.mode == "I" or any("65535" in text for text in arguments))


def _kind(image: Image.Image) -> str:
    kinds = {"F": "floating-point", "I": "of 32-bit or signed levels"}
    return kinds.get(image.mode, "of signed levels" if image.mode in MODES else f"of mode {image.mode}")


def _signed(image: Image.Image) -> bool:
    formats = _tags(image).get(SAMPLE_FORMAT, ())
    return any(kind != UNSIGNED for kind in formats)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Those of a TIFF file."""
    return getattr(image, "tag_v2", {})


def _see_through(image: Image.Image) -> bool:
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)


@cache
def _suffixes() -> frozenset[str]:
    """Names of files of the formats that are decoded end with one of these."""
    Image.init()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)
