"""ImageNet's folders, filled with small JPEGs."""

from collections.abc import Iterable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def timm_info(name: str) -> list[str]:
    """Lines of one of the lists of classes that timm brings along: written by others, so an oracle."""
    spec = find_spec("timm")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("ImageNet's WNIDs are read from timm, which is not installed")
    file = Path(spec.submodule_search_locations[0]) / "data" / "_info" / name
    return file.read_text(encoding="utf-8").splitlines()


def all_wnids() -> list[str]:
    """Of the 1,000 classes, in the order in which models count them."""
    return timm_info("imagenet_synsets.txt")


def jpeg(seed: int = 0, *, size: tuple[int, int] = (24, 30), mode: str = "RGB") -> bytes:
    """Smooth noise of a height and width, as the bytes of a JPEG file."""
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    levels = np.random.default_rng(seed).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    content = BytesIO()
    picture = Image.frombytes(mode, (8, 6), levels.tobytes())
    picture.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    return content.getvalue()


def write_classes(folder: Path, wnids: Iterable[str], *, images: int = 1) -> Path:
    """Class folders with so many images each, of five different pictures and three sizes."""
    pictures = [jpeg(seed, size=size) for seed, size in enumerate([(24, 30), (30, 24), (24, 24), (27, 40), (24, 30)])]
    number = 0
    for wnid in wnids:
        (folder / wnid).mkdir(parents=True)
        for _ in range(images):
            number += 1
            (folder / wnid / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(pictures[number % len(pictures)])
    return folder
