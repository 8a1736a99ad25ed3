"""Pictures of one's own: exact values, what is refused and in which words, and moving pictures frame by frame."""

import gc
import io
import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.image_files import FRAME_MILLISECONDS, Frames, is_moving, read_frames, read_images
from tests.refusals import refused

HEIGHT, WIDTH = 5, 4

Levels = npt.NDArray[np.integer[Any]]

LOSSLESS: dict[str, dict[str, Any]] = {"png": {}, "bmp": {}, "tiff": {}, "ppm": {}, "webp": {"lossless": True}}


def noise(seed: int = 0, *, height: int = HEIGHT, width: int = WIDTH) -> Levels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def paint(file: Path, levels: Levels | None = None, **how: Any) -> Path:
    Image.fromarray(noise() if levels is None else levels).save(file, **how)
    return file


def paint_frames(file: Path, frames: list[Image.Image], **how: Any) -> Path:
    frames[0].save(file, save_all=True, append_images=frames[1:], **how)
    return file


def moving(count: int = 3, mode: str = "RGB", **size: int) -> list[Image.Image]:
    return [Image.fromarray(noise(seed, **size)).convert(mode) for seed in range(count)]


def wanted(*levels: Levels) -> Tensor:
    """Levels of 8 bits as images in [0, 1]; float32 as the product computes it, so equal to the last bit."""
    return torch.from_numpy(np.stack([one.transpose(2, 0, 1) for one in levels]).astype(np.float32) / np.float32(255))


def read_any(file: Path) -> object:
    """As the command line does it."""
    return read_frames(file, None) if is_moving(file) else read_images([file], None)


def read_or_refused(file: Path) -> object:
    """What was read, or the refusal; anything else is a bug."""
    try:
        return read_any(file)
    except RequestError as error:
        return error


# Single files


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_file_is_its_levels_divided_by_255(kind: str, tmp_path: Path) -> None:
    file = paint(tmp_path / f"one.{kind}", **LOSSLESS[kind])
    images = read_images([file], None)
    assert images.dtype == torch.float32
    assert torch.equal(images, wanted(noise()))


def test_a_jpeg_is_what_its_decoder_gives(tmp_path: Path) -> None:
    file = paint(tmp_path / "one.jpeg")
    with Image.open(file) as image:
        assert torch.equal(read_images([file], None), wanted(np.asarray(image)))


def test_the_ends_of_the_range_are_0_and_1(tmp_path: Path) -> None:
    levels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    levels[1:] = 255
    images = read_images([paint(tmp_path / "one.png", levels)], None)
    assert images.unique().tolist() == [0, 1]


def test_files_are_one_batch_in_the_order_they_are_given(tmp_path: Path) -> None:
    files = [paint(tmp_path / name, noise(seed)) for seed, name in enumerate(["z.png", "a.bmp", "m.png"])]
    assert torch.equal(read_images(files, (HEIGHT, WIDTH)), wanted(noise(0), noise(1), noise(2)))


def test_the_first_file_decides_the_size_where_nothing_else_does(tmp_path: Path) -> None:
    files = [paint(tmp_path / "first.png"), paint(tmp_path / "second.png", noise(height=7, width=6))]
    said = refused(lambda: read_images(files, None))
    assert said == f"{files[1]} has 7x6 pixels and {HEIGHT}x{WIDTH} are needed: resize it, all to one size"


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH + 1), (WIDTH, HEIGHT)])
def test_a_file_of_another_size_than_asked_for_is_named_with_both_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    file = paint(tmp_path / "one.png")
    said = refused(lambda: read_images([file], size))
    assert said.startswith(f"{file} has {HEIGHT}x{WIDTH} pixels and {size[0]}x{size[1]} are needed: resize it")


# What is no image, or no longer one


class Program:
    """Makes a folder as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.marker,)


@pytest.mark.parametrize(
    "read", [lambda file: read_images([file], None), is_moving, lambda file: read_frames(file, None)]
)
@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_named(content: bytes, read: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(content)
    said = refused(lambda: read(file))
    assert said.startswith(f"image {file} cannot be decoded (")
    assert said.endswith("): replace it or take it out")


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "ppm", "webp"])
@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_named(kind: str, left: float, tmp_path: Path) -> None:
    file = paint(tmp_path / f"one.{kind}", noise(height=40, width=32))
    content = file.read_bytes()
    file.write_bytes(content[: int(left * len(content))])
    assert refused(lambda: read_any(file)).startswith(f"image {file} cannot be decoded (")


def test_a_moving_picture_cut_off_anywhere_is_named_or_has_fewer_frames(tmp_path: Path) -> None:
    file = paint_frames(tmp_path / "moving.gif", moving())
    content, whole = file.read_bytes(), read_frames(file, None).images
    for length in range(0, len(content), 11):
        file.write_bytes(content[:length])
        found = read_or_refused(file)
        if isinstance(found, Tensor):
            # No more than the first frame is left.
            assert torch.equal(found, whole[:1])
        elif isinstance(found, Frames):
            assert 2 <= len(found.images) <= 3
        else:
            assert str(file) in str(found), length


def test_damage_anywhere_is_named_or_harmless(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for kind in ("png", "jpeg", "webp", "gif"):
        file = tmp_path / f"one.{kind}"
        file = paint(file) if kind == "jpeg" else paint_frames(file, moving(2))
        content = file.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for place in random.integers(min(len(content), 300), size=3):
                damaged[place] = random.integers(256)
            file.write_bytes(damaged)
            found = read_or_refused(file)
            assert not isinstance(found, RequestError) or str(file) in str(found)


def test_a_program_is_never_executed(tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(pickle.dumps(Program(tmp_path / "marker")))
    refused(lambda: read_any(file))
    assert not (tmp_path / "marker").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "marker").exists()


def test_postscript_which_is_a_program_is_not_handed_to_an_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []

    def interpret(*arguments: object, **_: object) -> Image.Image:
        called.append(arguments)
        return Image.new("RGB", (WIDTH, HEIGHT))

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", interpret)
    file = tmp_path / "one.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\nshowpage\n%%EOF\n")
    said = refused(lambda: read_any(file))
    assert not called
    assert said.startswith(f"image {file} cannot be decoded (")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    said = refused(lambda: read_images([paint(tmp_path / "one.png"), tmp_path / "two.png"], None))
    assert said == f"{tmp_path}/two.png does not exist: give image files, an animation, or a folder of frames"
    assert refused(lambda: is_moving(tmp_path / "two.png")) == said


def test_a_name_too_long_for_any_file_is_a_missing_file(tmp_path: Path) -> None:
    assert "give image files" in refused(lambda: is_moving(tmp_path / ("long" * 99 + ".png")))


def test_a_folder_among_files_is_named(tmp_path: Path) -> None:
    said = refused(lambda: read_images([paint(tmp_path / "one.png"), tmp_path], None))
    assert said == f"{tmp_path} is a folder: give it alone to explain its images as frames of a moving picture"


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = paint(tmp_path / "one.png")

    def forbidden(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", forbidden)
    assert f"image {file} cannot be decoded (" in refused(lambda: read_images([file], None))


# What moves


def test_folders_and_files_of_several_frames_move(tmp_path: Path) -> None:
    assert is_moving(tmp_path)
    for kind in ("gif", "png", "webp", "tiff"):
        assert is_moving(paint_frames(tmp_path / f"moving.{kind}", moving()))
        assert not is_moving(paint_frames(tmp_path / f"still.{kind}", moving(1)))
    assert not is_moving(paint(tmp_path / "still.jpeg"))


def test_frames_of_a_folder_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.png", "frame-10.png", "A.png", "frame-09.png"]
    for seed, name in enumerate(names):
        paint(tmp_path / name, noise(seed))
    frames = read_frames(tmp_path, None)
    assert torch.equal(frames.images, wanted(noise(2), noise(0), noise(3), noise(1)))
    assert frames.milliseconds == (FRAME_MILLISECONDS,) * 4


def test_hidden_files_and_folders_are_no_frames(tmp_path: Path) -> None:
    paint(tmp_path / "1.png", noise(1))
    paint(tmp_path / "2.png", noise(2))
    paint(tmp_path / ".0.png", noise(0))
    (tmp_path / ".listing").write_text("no image")
    (tmp_path / "15").mkdir()
    assert torch.equal(read_frames(tmp_path, None).images, wanted(noise(1), noise(2)))


@pytest.mark.parametrize("count", [0, 1])
def test_a_folder_of_fewer_than_two_frames_is_refused(count: int, tmp_path: Path) -> None:
    for number in range(count):
        paint(tmp_path / f"{number}.png")
    said = refused(lambda: read_frames(tmp_path, None))
    assert said == f"{tmp_path} holds {count} frames: a moving picture needs at least two image files"


def test_an_animation_of_one_frame_is_refused(tmp_path: Path) -> None:
    file = paint_frames(tmp_path / "still.gif", moving(1))
    assert "needs at least two" in refused(lambda: read_frames(file, None))


def test_what_is_no_image_among_the_frames_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    (tmp_path / "notes.txt").write_text("ten frames")
    assert f"image {tmp_path}/notes.txt cannot be decoded (" in refused(lambda: read_frames(tmp_path, None))


def test_a_frame_of_another_size_is_named(tmp_path: Path) -> None:
    for number, width in enumerate([WIDTH, WIDTH, WIDTH + 3]):
        paint(tmp_path / f"{number}.png", noise(width=width))
    said = refused(lambda: read_frames(tmp_path, None))
    assert said.startswith(f"{tmp_path}/2.png has {HEIGHT}x{WIDTH + 3} pixels and {HEIGHT}x{WIDTH} are needed")
    assert f"{tmp_path}/0.png has " in refused(lambda: read_frames(tmp_path, (8, 8)))


def test_a_frame_of_a_folder_is_read_as_any_file(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    paint(tmp_path / "2.png", noise()[..., 0])
    grey = noise()[..., :1].repeat(3, axis=2)
    assert torch.equal(read_frames(tmp_path, None).images, wanted(noise(), grey))
    Image.new("F", (WIDTH, HEIGHT)).save(tmp_path / "3.tiff")
    assert f"{tmp_path}/3.tiff is floating-point" in refused(lambda: read_frames(tmp_path, None))


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert str(tmp_path) in refused(lambda: read_frames(tmp_path, None))


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_frames_of_an_animation_without_loss_are_exact(kind: str, tmp_path: Path) -> None:
    file = paint_frames(tmp_path / f"moving.{kind}", moving(), **LOSSLESS[kind])
    assert torch.equal(read_frames(file, (HEIGHT, WIDTH)).images, wanted(noise(0), noise(1), noise(2)))


def test_frames_are_shown_as_long_as_the_file_says(tmp_path: Path) -> None:
    file = paint_frames(tmp_path / "moving.gif", moving(5), duration=[40, 0, 250, 10, 2000])
    assert read_frames(file, None).milliseconds == (40, FRAME_MILLISECONDS, 250, 10, 2000)


def test_frames_of_which_nothing_says_how_long_have_the_default(tmp_path: Path) -> None:
    assert read_frames(paint_frames(tmp_path / "moving.gif", moving()), None).milliseconds == (FRAME_MILLISECONDS,) * 3


def test_an_animation_of_another_size_is_refused(tmp_path: Path) -> None:
    file = paint_frames(tmp_path / "moving.gif", moving())
    said = refused(lambda: read_frames(file, (8, 9)))
    assert said.startswith(f"frame 0 of {file} has {HEIGHT}x{WIDTH} pixels and 8x9 are needed: resize it")


def test_frames_of_differing_size_in_one_file_are_refused(tmp_path: Path) -> None:
    file = paint_frames(tmp_path / "moving.tiff", [*moving(2), *moving(1, width=WIDTH + 2)])
    said = refused(lambda: read_frames(file, None))
    assert said.startswith(f"frame 2 of {file} has {HEIGHT}x{WIDTH + 2} pixels and {HEIGHT}x{WIDTH} are needed")


@pytest.mark.parametrize("kind", ["png", "webp", "gif"])
def test_an_animation_that_lets_something_through_is_refused(kind: str, tmp_path: Path) -> None:
    frames = moving(3, "RGBA")
    frames[0].putpixel((1, 2), (0, 0, 0, 0))
    file = paint_frames(tmp_path / f"moving.{kind}", frames)
    assert f"frame 0 of {file} is partly transparent" in refused(lambda: read_frames(file, None))


def test_pages_of_16_bits_are_cut_to_8(tmp_path: Path) -> None:
    pages = [Image.fromarray(noise(seed)[..., 0].astype(np.uint16) * 257) for seed in range(2)]
    file = paint_frames(tmp_path / "moving.tiff", pages)
    grey = [noise(seed)[..., :1].repeat(3, axis=2) for seed in range(2)]
    assert torch.equal(read_frames(file, None).images, wanted(*grey))


# GIF as the format defines it


PALETTE = np.array([[10, 20, 30], [200, 0, 90], [0, 255, 128], [255, 255, 255]], dtype=np.uint8)
"""Colour 0 is the background."""


class Patch(NamedTuple):
    """What a frame of a GIF changes."""

    left: int
    top: int
    colours: list[list[int]]
    disposal: int = 1
    transparent: int | None = None
    centiseconds: int = 5


def gif(patches: list[Patch]) -> bytes:
    """A GIF whose compressed data begin anew at each pixel, so that a code is always 3 bits."""
    content = io.BytesIO()
    content.write(b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0b1_001_0_001, 0, 0) + PALETTE.tobytes())
    for patch in patches:
        colours = np.array(patch.colours)
        flags = patch.disposal << 2 | (patch.transparent is not None)
        content.write(b"\x21\xf9\x04" + struct.pack("<BHBB", flags, patch.centiseconds, patch.transparent or 0, 0))
        content.write(b"\x2c" + struct.pack("<HHHHB", patch.left, patch.top, *colours.shape[::-1], 0))
        clear, end, bits = 4, 5, 0
        codes = [code for colour in colours.ravel() for code in (clear, int(colour))] + [end]
        for place, code in enumerate(codes):
            bits |= code << 3 * place
        packed = bits.to_bytes(-(-3 * len(codes) // 8), "little")
        content.write(b"\x02" + bytes([len(packed)]) + packed + b"\0")
    return content.getvalue() + b"\x3b"


def composed(patches: list[Patch]) -> list[Levels]:
    """What is seen, pixel by pixel, as the GIF89a specification has it."""
    canvas = np.zeros((HEIGHT, WIDTH), dtype=int)
    seen = []
    for patch in patches:
        before = canvas.copy()
        for (row, column), colour in np.ndenumerate(np.array(patch.colours)):
            if colour != patch.transparent:
                canvas[patch.top + row, patch.left + column] = colour
        seen.append(PALETTE[canvas])
        height, width = np.shape(patch.colours)
        if patch.disposal == 2:
            canvas[patch.top : patch.top + height, patch.left : patch.left + width] = 0
        if patch.disposal == 3:
            canvas = before
    return seen


FULL = [[1, 2, 3, 1], [2, 3, 1, 2], [3, 1, 2, 3], [1, 1, 2, 2], [3, 3, 3, 1]]


@pytest.mark.parametrize(
    "patches",
    [
        [Patch(0, 0, FULL), Patch(1, 2, [[0, 3], [2, 1]])],
        [Patch(0, 0, FULL), Patch(0, 0, [[3]]), Patch(3, 4, [[2]]), Patch(2, 0, [[0], [0], [0], [0], [0]])],
        [Patch(0, 0, FULL), Patch(1, 2, [[0, 3], [2, 1]], disposal=2), Patch(0, 4, [[2, 2]])],
        [Patch(0, 0, FULL), Patch(1, 2, [[0, 3], [2, 1]], disposal=3), Patch(0, 4, [[2, 2]])],
        [Patch(0, 0, FULL), Patch(0, 1, [[2, 0, 2], [0, 1, 0]], transparent=0), Patch(0, 0, [[3]])],
    ],
    ids=["a part", "parts", "back to the background", "back to what was there", "what was there shows through"],
)
def test_frames_that_are_parts_are_decoded_as_what_is_seen(patches: list[Patch], tmp_path: Path) -> None:
    file = tmp_path / "moving.gif"
    file.write_bytes(gif(patches))
    frames = read_frames(file, (HEIGHT, WIDTH))
    assert torch.equal(frames.images, wanted(*composed(patches)))
    assert frames.milliseconds == (50,) * len(patches)


# Nothing is left open


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", ["one.png", "moving.gif", "moving.tiff", "frames", "grey.png"])
def test_no_file_is_left_open(name: str, cut: bool, tmp_path: Path) -> None:
    file = tmp_path / name
    if name == "frames":
        file.mkdir()
        paint(file / "2.png", noise(2))
    if name.startswith("moving"):
        paint_frames(file, moving(3, height=40))
    else:
        paint(file / "1.png" if file.is_dir() else file, noise(height=40)[..., 0] if name == "grey.png" else None)
    if cut:
        last = file / "1.png" if file.is_dir() else file
        last.write_bytes(last.read_bytes()[:-40])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            read_any(file)
        except RequestError:
            assert cut
        gc.collect()
    assert not [warning for warning in said if issubclass(warning.category, ResourceWarning)]
