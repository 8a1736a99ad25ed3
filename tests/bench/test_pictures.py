"""Pictures as they are kept: what goes in comes out, what is damaged is said to be, and nothing in them is executed."""

import io
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_bcos.bench.pictures import Picture, View


def view(seed: int = 0, *, height: int = 5, width: int = 4, prediction: int = 6) -> View:
    random = np.random.default_rng(seed)
    return View(
        pixels=random.uniform(size=(3, height, width)).astype(np.float32),
        explanation=random.uniform(size=(height, width, 4)).astype(np.float32),
        contributions=random.normal(size=(height, width)).astype(np.float32),
        prediction=prediction,
        confidence=float(random.uniform()),
    )


CONTENT = Picture(image=17, label=3, clean=view(), attacked=view(1)).to_bytes()


def same(one: View, other: View) -> None:
    for field in fields(View):
        expected, found = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(found, expected)
        assert type(found) is type(expected)


def read(content: bytes) -> Picture:
    return Picture.from_bytes(17, 3, content)


@pytest.mark.parametrize("label", [0, 9, None])
def test_what_is_kept_comes_back_to_the_last_bit(label: int | None) -> None:
    clean, attacked = view(height=7), view(1, height=7, prediction=-1)
    back = Picture.from_bytes(1796, label, Picture(image=1796, label=label, clean=clean, attacked=attacked).to_bytes())
    assert (back.image, back.label) == (1796, label)
    assert back.attacked is not None
    same(clean, back.clean)
    same(attacked, back.attacked)


def test_an_image_that_nobody_attacked_comes_back_without_an_attack() -> None:
    back = read(Picture(image=17, label=3, clean=view(), attacked=None).to_bytes())
    same(view(), back.clean)
    assert back.attacked is None


def test_contributions_that_are_no_numbers_are_kept_as_they_are() -> None:
    broken = replace(view(), contributions=np.full((5, 4), np.nan, dtype=np.float32), confidence=float("nan"))
    same(broken, read(Picture(image=17, label=3, clean=broken, attacked=None).to_bytes()).clean)


def test_equal_pictures_are_equal_bytes() -> None:
    assert Picture(image=17, label=3, clean=view(), attacked=view(1)).to_bytes() == CONTENT
    assert Picture(image=17, label=3, clean=view(2), attacked=view(1)).to_bytes() != CONTENT


# What did not come from here


def archive(**changes: Any) -> bytes:
    """The arrays of a picture, some of them replaced; ``None`` leaves one out."""
    with np.load(io.BytesIO(CONTENT)) as arrays:
        held = dict(arrays) | changes
    file = io.BytesIO()
    np.savez_compressed(file, **{name: array for name, array in held.items() if array is not None})
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_the_archive_is_fine_before_anything_is_changed() -> None:
    same(view(), read(archive()).clean)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture at all",
        CONTENT[:-1],
        CONTENT[: len(CONTENT) // 2],
        CONTENT[1:],
        archive(clean_pixels=None),
        archive(attacked_confidence=None),
        archive(clean_prediction=np.array([1, 2])),
        npy(np.zeros(3)),
    ],
    ids=["empty", "text", "cut by one", "half", "without its first byte", "no pixels", "half an attack", "two classes",
         "one array"],
)  # fmt: skip
def test_what_is_no_picture_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        read(content)


@settings(max_examples=200)
@given(place=st.integers(0, len(CONTENT) - 1), mask=st.integers(1, 255))
def test_a_byte_that_a_disk_has_changed_is_a_value_error_or_changes_nothing(place: int, mask: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[place] ^= mask
    try:
        back = read(bytes(damaged))
    except ValueError:
        return
    # Nobody reads dates and versions, and arrays have check sums; names have none, so that an attack may be overlooked.
    same(view(), back.clean)
    if back.attacked is not None:
        same(view(1), back.attacked)


# Programs


class Program:
    """Makes a folder as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.marker,)


def test_a_pickled_array_is_refused_and_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    program = np.array([Program(marker)], dtype=object)
    for content in (archive(clean_pixels=program), npy(program), pickle.dumps(Program(marker))):
        with pytest.raises(ValueError):
            read(content)
        assert not marker.exists()
    # It would have run.
    np.load(io.BytesIO(npy(program)), allow_pickle=True)
    assert marker.exists()


def test_a_picture_never_holds_a_program(tmp_path: Path) -> None:
    broken = view()
    object.__setattr__(broken, "pixels", np.array([Program(tmp_path / "marker")], dtype=object))
    with pytest.raises(ValueError):
        Picture(image=17, label=3, clean=broken, attacked=None).to_bytes()
