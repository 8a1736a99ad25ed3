"""What files mean: one reader for runs and for explain, beside Pillow, torchvision, and files written by hand."""

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.decoding import decode_rgb
from robustbench_bcos.data.image_files import is_moving, read_images
from robustbench_bcos.data.opening import open_dataset
from tests.refusals import refused

HEIGHT, WIDTH = 5, 4

Levels = npt.NDArray[np.integer[Any]]


def noise(seed: int = 0) -> Levels:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def wanted(levels: Levels) -> Tensor:
    """Levels of 8 bits as an image in [0, 1]."""
    levels = levels if levels.ndim == 3 else levels[..., None].repeat(3, axis=2)
    return torch.from_numpy(levels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def explained(file: Path) -> Tensor:
    return read_images([file], None)[0]


def run(file: Path) -> Tensor:
    """The same file, as a run reads it from a folder of classes."""
    place = file.parent / "folder/class" / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(file.read_bytes())
    return open_dataset(f"folder:{file.parent}/folder", "test").read(0)


READERS = pytest.mark.parametrize("read", [explained, run])


def png(levels: Levels, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of RGB with 8 or 16 bits, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(levels.dtype.newbyteorder(">")).tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 8 * levels.itemsize, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(levels: npt.NDArray[Any], *, sample_format: int = 1, photometric: int = 1) -> bytes:
    """An uncompressed TIFF of one channel."""
    data, (height, width) = levels.tobytes(), levels.shape
    tags = {256: width, 257: height, 258: 8 * levels.itemsize, 259: 1, 262: photometric, 273: 0, 277: 1}
    tags |= {278: height, 279: len(data), 339: sample_format}
    tags[273] = 14 + 12 * len(tags)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


# What is converted


@READERS
@pytest.mark.parametrize("mode", ["L", "1", "P", "YCbCr", "CMYK"])
def test_other_modes_of_8_bits_become_rgb_as_torchvisions_loader_makes_them(
    read: Callable[[Path], Tensor], mode: str, tmp_path: Path
) -> None:
    file = tmp_path / f"one.{'tiff' if mode in ('YCbCr', 'CMYK') else 'png'}"
    Image.fromarray(noise()).convert(mode).save(file)
    with Image.open(file) as picture:
        assert picture.mode == mode
        levels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(levels)) > 1
    assert torch.equal(read(file), wanted(levels))


@READERS
def test_a_grey_file_is_its_levels_in_all_channels(read: Callable[[Path], Tensor], tmp_path: Path) -> None:
    Image.fromarray(noise()[..., 0]).save(tmp_path / "one.png")
    assert torch.equal(read(tmp_path / "one.png"), wanted(noise()[..., 0]))


@READERS
@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_grey_levels_of_16_bits_are_scaled_and_not_cut_off_at_255(
    read: Callable[[Path], Tensor], suffix: str, tmp_path: Path
) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    file = tmp_path / f"one.{suffix}"
    Image.fromarray(levels).save(file)
    found = read(file)
    assert torch.equal(found, found[:1].expand(3, -1, -1))
    # Half a level of 8 bits is what rounding to them costs.
    assert np.abs(found[0].numpy() - levels / 65535).max() <= 0.501 / 255


@READERS
@pytest.mark.parametrize("suffix", ["png", "ppm"])
def test_colours_of_16_bits_are_scaled(read: Callable[[Path], Tensor], suffix: str, tmp_path: Path) -> None:
    levels = noise().astype(np.uint16) * 257
    contents = {"png": png(levels), "ppm": b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + levels.astype(">u2").tobytes()}
    file = tmp_path / f"one.{suffix}"
    file.write_bytes(contents[suffix])
    assert torch.equal(read(file), wanted(noise()))
    assert decode_rgb(file).conversions == ("cut from 16 bits to 8",)


@READERS
@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_an_alpha_channel_that_hides_nothing_is_dropped(
    read: Callable[[Path], Tensor], mode: str, tmp_path: Path
) -> None:
    file = tmp_path / f"one.{'tiff' if mode == 'PA' else 'png'}"
    plain = Image.fromarray(noise()).convert(mode[:-1])
    opaque = plain.convert(mode)
    opaque.putalpha(255)
    opaque.save(file)
    assert torch.equal(read(file), wanted(np.asarray(plain.convert("RGB"))))


def turned(levels: Levels, orientation: int, file: Path) -> Path:
    picture = Image.fromarray(levels)
    picture.getexif()[0x0112] = orientation
    picture.save(file, exif=picture.getexif())
    return file


UPRIGHT: dict[int, Callable[[Levels], Levels]] = {
    1: lambda levels: levels,
    2: np.fliplr,
    3: lambda levels: np.rot90(levels, 2),
    4: np.flipud,
    5: lambda levels: levels.transpose(1, 0, 2),
    6: lambda levels: np.rot90(levels, -1),
    7: lambda levels: np.rot90(levels.transpose(1, 0, 2), 2),
    8: np.rot90,
}
"""What the tag says, by what it says of a matrix of pixels (Exif 2.3, tag 274)."""


@READERS
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_as_its_tag_says_which_is_how_everybody_sees_it(
    read: Callable[[Path], Tensor], orientation: int, tmp_path: Path
) -> None:
    file = turned(noise(), orientation, tmp_path / "one.png")
    assert torch.equal(read(file), wanted(np.ascontiguousarray(UPRIGHT[orientation](noise()))))
    assert decode_rgb(file).conversions == (() if orientation == 1 else ("turned upright",))


def test_16_bits_are_turned_too(tmp_path: Path) -> None:
    file = turned(noise()[..., 0].astype(np.uint16) * 257, 6, tmp_path / "one.png")
    assert torch.equal(explained(file), wanted(np.ascontiguousarray(UPRIGHT[6](noise()[..., :1])[..., 0])))


@READERS
def test_the_preview_behind_a_photo_is_no_second_frame(read: Callable[[Path], Tensor], tmp_path: Path) -> None:
    file = tmp_path / "one.jpg"
    photo = Image.fromarray(noise())
    photo.save(file, "MPO", save_all=True, append_images=[photo.resize((2, 3))])
    with Image.open(file) as picture:
        assert (picture.format, picture.n_frames) == ("MPO", 2)  # type: ignore[attr-defined]
        levels = np.asarray(picture)
    assert not is_moving(file)
    assert torch.equal(read(file), wanted(levels))


# What is refused


SHAPE_IN_ALPHA = np.dstack([np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8), noise()[..., 0]])
FRACTIONS = (noise()[..., 0] / 255).astype(np.float32)

REFUSED: dict[str, tuple[bytes | Image.Image, str]] = {
    "alpha.png": (Image.fromarray(SHAPE_IN_ALPHA), "is partly transparent, and nothing tells what is behind it: "),
    "alpha.webp": (Image.fromarray(SHAPE_IN_ALPHA), "is partly transparent"),
    "key.png": (png(noise(), (b"tRNS", struct.pack(">HHH", *map(int, noise()[2, 1])))), "is partly transparent"),
    "float.tif": (Image.fromarray(FRACTIONS), "is floating-point, whose black and white nothing tells: convert"),
    "int32.tif": (tiff(noise()[..., 0].astype("<u4")), "is of 32-bit or signed levels"),
    "int16.tif": (tiff(noise()[..., 0].astype("<i2") - 128, sample_format=2), "is of 32-bit or signed levels"),
    "int8.tif": (tiff(noise()[..., 0].astype("i1"), sample_format=2), "is of signed levels"),
    "negative.tif": (tiff(noise()[..., 0].astype("<u2") * 257, photometric=0), "has 16 bits and 0 for white"),
    "12bit.png": (Image.fromarray(noise()[..., 0].astype(np.uint16) * 16), "has 16 bits and no level above 3968 of"),
    "lab.tiff": (Image.new("LAB", (WIDTH, HEIGHT)), "is of mode LAB"),
}


@READERS
@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_say_what_it_shows_is_refused_with_the_remedy(
    read: Callable[[Path], Tensor], name: str, tmp_path: Path
) -> None:
    content, said = REFUSED[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        content.save(tmp_path / name)
    message = refused(lambda: read(tmp_path / name))
    assert said in message
    assert name in message


def test_the_files_written_by_hand_are_fine_where_they_say_what_they_show(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(noise()))
    (tmp_path / "two.tif").write_bytes(tiff(noise()[..., 0]))
    (tmp_path / "three.tif").write_bytes(tiff(noise()[..., 0].astype("<u2") * 257))
    assert torch.equal(explained(tmp_path / "one.png"), wanted(noise()))
    assert torch.equal(explained(tmp_path / "two.tif"), wanted(noise()[..., 0]))
    assert torch.equal(explained(tmp_path / "three.tif"), wanted(noise()[..., 0]))


def test_a_black_picture_of_16_bits_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint16)).save(tmp_path / "one.png")
    assert not explained(tmp_path / "one.png").any()


def test_a_png_whose_checksums_do_not_fit_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    content = file.read_bytes()
    first = content.index(b"IDAT") + 4
    for place in range(first, len(content) - 16, 50):
        file.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(RequestError, match=r"one\.png cannot be decoded \(.*checksum"):
            decode_rgb(file)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_an_image_of_a_dataset_is_one_picture(suffix: str, tmp_path: Path) -> None:
    first, *others = (Image.fromarray(noise(seed)) for seed in range(3))
    first.save(tmp_path / f"one.{suffix}", save_all=True, append_images=others)
    said = refused(lambda: run(tmp_path / f"one.{suffix}"))
    assert f"one.{suffix} holds 3 frames or pages: save the one that is meant" in said


# ImageNet


@pytest.mark.parametrize(
    ("file", "conversion"),
    [
        ("turned.jpeg", "as it was stored, and not turned as its tag says"),
        ("alpha.png", "partly transparent, and its transparency dropped"),
    ],
)
def test_published_evaluations_read_as_torchvisions_loader_does(file: str, conversion: str, tmp_path: Path) -> None:
    turned(noise(), 6, tmp_path / "turned.jpeg")
    Image.fromarray(np.dstack([noise(), noise(1)[..., 0]])).save(tmp_path / "alpha.png")
    decoded = decode_rgb(tmp_path / file, as_torchvision=True)
    with Image.open(tmp_path / file) as picture:
        np.testing.assert_array_equal(np.asarray(decoded.picture), np.asarray(picture.convert("RGB")))
    assert decoded.conversions == (conversion,)


def test_what_pillow_warns_of_does_not_reach_the_user(tmp_path: Path) -> None:
    # A palette whose transparency is a string of bytes, of which Pillow warns when it is converted.
    indexed = Image.new("P", (WIDTH, HEIGHT))
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    indexed.save(tmp_path / "one.png", transparency=b"\x00\xff")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode_rgb(tmp_path / "one.png", as_torchvision=True)
    assert not caught


def test_what_was_done_to_the_files_that_were_read_is_counted(tmp_path: Path) -> None:
    for number in range(3):
        turned(noise(number), 6 if number else 1, tmp_path / f"{number}.png")
        run(tmp_path / f"{number}.png")
    images = open_dataset(f"folder:{tmp_path}/folder", "test")
    assert images.notes == ()
    for index in (0, 1, 1, 2):
        images.read(index)
    assert images.notes == ("Images turned upright: 2.",)
