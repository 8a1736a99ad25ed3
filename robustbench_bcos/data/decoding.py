"""The only module that opens image files: a damaged one is named, and nothing in a file is executed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from robustbench_bcos.core.errors import RequestError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Pillow knows more, and hands PostScript, which is a program, to an interpreter."""


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """An image file, whatever its mode; any failure while it is open counts as damage.

    Raises:
        RequestError: it cannot be decoded.
    """
    try:
        # Where a warning of Pillow's matters, an error follows.
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS) as image:
            yield image
    except RequestError:
        raise
    except Exception as error:  # Pillow raises nearly anything over a damaged file.
        raise RequestError(f"image {file} cannot be decoded ({error}): replace it or take it out") from None


def decode_rgb(file: Path) -> Image.Image:
    """A file as 8-bit RGB, converted as torchvision's loader does: grey is repeated, CMYK mixed, transparency dropped.

    Raises:
        RequestError: it cannot be decoded.
    """
    with opened(file) as image:
        return image.convert("RGB")
