"""What ``explain`` leaves in a folder, read back from the files."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageSequence

from robustbench_bcos.bench.gallery import ExplainedGallery
from robustbench_bcos.bench.pictures import Picture, View
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.image_files import Frames
from robustbench_bcos.reports.gallery import FRAME_HEIGHT, write_gallery, write_maps, write_moving
from robustbench_bcos.reports.panels import BACKGROUND

HEIGHT, WIDTH = 8, 6
CLASSES = ("cat", "ship", "frog", "deer")
PANELS = ["panel_01.png"]

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]


def view(seed: int, *, height: int = HEIGHT, width: int = WIDTH) -> View:
    random = np.random.default_rng(seed)
    pixels = random.uniform(size=(3, height, width)).astype(np.float32)
    explanation = random.uniform(size=(height, width, 4)).astype(np.float32)
    return View(
        pixels=pixels,
        explanation=explanation,
        contributions=random.normal(size=(height, width)).astype(np.float32),
        prediction=seed % 4,
        confidence=0.75,
    )


def explained(count: int = 2, *, attacked: bool = False) -> ExplainedGallery:
    pictures = [
        Picture(image=i, label=None, clean=view(i), attacked=view(i + 50) if attacked else None) for i in range(count)
    ]
    arrays = {
        "images": np.stack([picture.clean.pixels for picture in pictures]),
        "targets": np.arange(count),
        "pictures": np.stack([picture.clean.explanation for picture in pictures]),
    }
    return ExplainedGallery(pictures, {**arrays})


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*"))


def as_levels(values: Floats) -> npt.NDArray[np.float64]:
    return 255 * values.astype(np.float64)


# Images


def test_every_file_is_written_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "shown"
    written = write_gallery(explained(), ["cat", "image-14"], class_names=CLASSES, folder=folder, title="title")
    expected = ["001_cat_explanation.png", "002_image-14_explanation.png", "maps.npz", *PANELS]
    assert names_in(folder) == expected
    assert sorted(written) == [folder / name for name in expected]


def test_attacked_images_have_an_explanation_of_their_own(tmp_path: Path) -> None:
    shown = explained(attacked=True)
    write_gallery(shown, ["cat", "cat"], class_names=CLASSES, folder=tmp_path, title="title")
    assert names_in(tmp_path) == [
        "001_cat_explanation.png",
        "001_cat_explanation_attacked.png",
        "002_cat_explanation.png",
        "002_cat_explanation_attacked.png",
        "maps.npz",
        *PANELS,
    ]
    for number, picture in enumerate(shown.pictures, start=1):
        assert picture.attacked is not None
        same_rgba(tmp_path / f"00{number}_cat_explanation.png", picture.clean.explanation)
        same_rgba(tmp_path / f"00{number}_cat_explanation_attacked.png", picture.attacked.explanation)


def same_rgba(file: Path, expected: Floats) -> None:
    with Image.open(file) as image:
        assert image.mode == "RGBA"
        # Matplotlib cuts 255 * value off where others round: less than one level.
        assert np.abs(np.asarray(image) - as_levels(expected)).max() < 1 + 1e-4


@pytest.mark.parametrize(("count", "panels"), [(1, 1), (6, 1), (7, 2), (13, 3)])
def test_panels_hold_six_images_each(count: int, panels: int, tmp_path: Path) -> None:
    write_gallery(explained(count), ["one"] * count, class_names=CLASSES, folder=tmp_path, title="title")
    found = [name for name in names_in(tmp_path) if name.startswith("panel")]
    assert found == [f"panel_{number:02d}.png" for number in range(1, panels + 1)]
    assert len(names_in(tmp_path)) == count + 1 + panels


def test_panels_can_be_had_in_other_formats(tmp_path: Path) -> None:
    write_gallery(explained(), ["a", "b"], class_names=CLASSES, folder=tmp_path, title="title", formats=("pdf",))
    assert [name for name in names_in(tmp_path) if name.startswith("panel")] == ["panel_01.pdf"]


def test_a_second_gallery_takes_the_place_of_the_first(tmp_path: Path) -> None:
    write_gallery(explained(), ["a", "b"], class_names=CLASSES, folder=tmp_path, title="title")
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    write_gallery(explained(), ["a", "b"], class_names=CLASSES, folder=tmp_path, title="title")
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before


HOSTILE = ["../../out", "/etc/passwd", "..", "", "a/b\\c:d*e?", "größer 猫\n$x$", ".hidden", "-rf", "nul\0", "x" * 245]


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "shown"
    written = write_gallery(explained(len(HOSTILE)), HOSTILE, class_names=CLASSES, folder=folder, title="title")
    assert names_in(tmp_path) == sorted(["deep", "shown", *(file.name for file in written)])
    assert len(set(written)) == len(HOSTILE) + 1 + 2
    for file in written:
        assert file.parent == folder
        assert file.is_file()
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", file.name)
        assert not file.name.startswith((".", "-"))


# Arrays


def test_maps_are_what_was_explained_and_hold_no_program(tmp_path: Path) -> None:
    shown = explained(3)
    assert write_maps(shown, tmp_path) == [tmp_path / "maps.npz"]
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as found:
        assert set(found) == set(shown.arrays)
        for name, array in shown.arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_arrays_that_only_a_program_could_restore_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickle"):
        write_maps(ExplainedGallery([], {"images": np.array([object()])}), tmp_path)
    assert not names_in(tmp_path)


# Moving pictures


def film(views: list[View]) -> list[Picture]:
    return [Picture(image=number, label=None, clean=one, attacked=None) for number, one in enumerate(views)]


def frames_of(times: list[int]) -> Frames:
    return Frames(torch.zeros(len(times), 3, HEIGHT, WIDTH), tuple(times))


def played(file: Path) -> tuple[list[Levels], list[int]]:
    with Image.open(file) as animation:
        assert animation.format == "GIF"
        assert animation.info["loop"] == 0
        frames = [
            (np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(animation)
        ]
    return [pixels for pixels, _ in frames], [time for _, time in frames]


def halves(frame: Levels, width: int, factor: int) -> tuple[Levels, Levels]:
    """The input and its explanation, one value for each pixel of the image."""
    reduced = frame[::factor, ::factor]
    np.testing.assert_array_equal(reduced.repeat(factor, axis=0).repeat(factor, axis=1), frame)
    gap = reduced[:, width:-width]
    assert gap.shape[1] == max(1, width // 16)
    assert (gap == 255).all()
    return reduced[:, :width], reduced[:, -width:]


def over_grey(explanation: Floats) -> npt.NDArray[np.float64]:
    shown = np.empty((*explanation.shape[:2], 3))
    for place in np.ndindex(*explanation.shape[:2]):
        *colour, alpha = explanation[place].astype(np.float64)
        shown[place] = [255 * (alpha * value + (1 - alpha) * BACKGROUND) for value in colour]
    return shown


def test_each_frame_stands_beside_its_explanation_for_its_time(tmp_path: Path) -> None:
    views, times = [view(seed) for seed in range(4)], [40, 1000, 100, 250]
    file = write_moving(film(views), frames_of(times), tmp_path)
    assert file == tmp_path / "moving.gif"
    assert names_in(tmp_path) == ["moving.gif"]
    frames, shown_for = played(file)
    assert shown_for == times
    assert len(frames) == 4
    for frame, one in zip(frames, views, strict=True):
        assert len(frame) == FRAME_HEIGHT
        left, right = halves(frame, WIDTH, FRAME_HEIGHT // HEIGHT)
        # A palette holds 256 colours and a frame has 97: nothing is lost but the rounding to 8 bits.
        assert np.abs(left - as_levels(one.pixels.transpose(1, 2, 0))).max() <= 0.5 + 1e-4
        assert np.abs(right - over_grey(one.explanation)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("height", "factor"), [(24, 8), (100, 2), (192, 1), (200, 1)])
def test_small_frames_are_enlarged_by_whole_factors(height: int, factor: int, tmp_path: Path) -> None:
    views = [view(seed, height=height, width=33) for seed in range(2)]
    frames, _ = played(write_moving(film(views), frames_of([100, 100]), tmp_path))
    for frame, one in zip(frames, views, strict=True):
        assert frame.shape == (factor * height, factor * (33 + 2 + 33), 3)
        left = frame[::factor, ::factor][:, :33]
        # Noise in thousands of colours through a palette of 256, six or seven to a channel: 21 levels at the middle
        # of such an interval's half, and less on average. Pixels in a wrong place would differ by 85.
        assert np.abs(left - as_levels(one.pixels.transpose(1, 2, 0))).mean() < 21


def test_what_does_not_move_is_shown_for_its_whole_time(tmp_path: Path) -> None:
    """GIF merges frames that are equal; what is seen at any moment stays the same."""
    still, other = view(0), view(1)
    frames, times = played(write_moving(film([still, still, other]), frames_of([50, 120, 70]), tmp_path))
    assert sum(times) == 240
    shown = [pixels for pixels, time in zip(frames, times, strict=True) for _ in range(time // 10)]
    for moment, one in [(0, still), (16, still), (17, other), (23, other)]:
        left, _ = halves(shown[moment], WIDTH, FRAME_HEIGHT // HEIGHT)
        assert np.abs(left - as_levels(one.pixels.transpose(1, 2, 0))).max() <= 0.5 + 1e-4


def test_a_very_long_frame_is_shown_as_long_as_the_format_can_say(tmp_path: Path) -> None:
    """A time is 16 bits of hundredths of a second."""
    _, times = played(write_moving(film([view(0), view(1)]), frames_of([700_000, 50]), tmp_path))
    assert times == [655_350, 50]


# Disks


WRITERS = {
    "gallery": lambda folder: write_gallery(explained(), ["a", "b"], class_names=CLASSES, folder=folder, title="title"),
    "maps": lambda folder: write_maps(explained(), folder),
    "moving picture": lambda folder: write_moving(film([view(0), view(1)]), frames_of([50, 50]), folder),
}


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk of {folder} is full: free some space"),
        (errno.EACCES, "{folder} cannot be written (Permission denied): choose another folder"),
        (errno.EROFS, "{folder} cannot be written (Read-only file system): choose another folder"),
    ],
)
def test_a_disk_that_refuses_is_named_and_keeps_no_half_file(
    what: str, number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RequestError) as caught:
        WRITERS[what](tmp_path)
    assert str(caught.value).startswith(said.format(folder=tmp_path))
    assert not names_in(tmp_path)


def test_a_disk_that_is_full_after_some_files_keeps_whole_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, sizes = os.replace, []

    def refuse(partial: Path, file: Path) -> None:
        sizes.append(partial.stat().st_size)
        if len(sizes) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(partial, file)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RequestError, match="is full: free some space"):
        WRITERS["gallery"](tmp_path)
    assert names_in(tmp_path) == ["maps.npz", *PANELS]
    assert sorted(file.stat().st_size for file in tmp_path.iterdir()) == sorted(sizes[:2])


def test_a_file_where_the_folder_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("mine", encoding="utf-8")
    with pytest.raises(RequestError, match="choose another folder"):
        WRITERS["gallery"](tmp_path / "shown")
    assert (tmp_path / "shown").read_text(encoding="utf-8") == "mine"
