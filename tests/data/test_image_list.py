"""Lists of images: RobustBench's form, plain names, and what is said of lists that cannot be followed."""

from pathlib import Path

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.image_list import choose_listed

PATHS = ["n01/a_1.JPEG", "n01/a_2.JPEG", "n02/a_3.JPEG", "n02/sub/a_4.JPEG", "n03/same.JPEG", "n04/same.JPEG"]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        # RobustBench's file has no line feed after its last line.
        ("n02/a_3.JPEG\nn01/a_1.JPEG", [0, 2]),
        ("a_3.JPEG\na_1.JPEG\n", [0, 2]),
        ("a_2.JPEG\nn02/sub/a_4.JPEG\nn04/same.JPEG\n", [1, 3, 5]),
        ("\n\n  a_4.JPEG  \r\n\r\n", [3]),
        ("\ufeffa_1.JPEG\n", [0]),
        ("\n".join(reversed(PATHS)), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_listed_images_are_chosen_in_the_order_of_the_dataset(tmp_path: Path, text: str, chosen: list[int]) -> None:
    file = tmp_path / "list.txt"
    file.write_text(text, encoding="utf-8", newline="")
    assert choose_listed(file, PATHS) == chosen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a_1.JPEG\n\na_9.JPEG",
            "line 3 of image_list {} names 'a_9.JPEG', which is not among the 6 images such as n01",
        ),
        ("n02/a_1.JPEG", "line 1 of image_list {} names 'n02/a_1.JPEG', which is not among"),
        ("val/n01/a_1.JPEG", "line 1 of image_list {} names 'val/n01/a_1.JPEG', which is not among"),
        ("../n01/a_1.JPEG", "line 1 of image_list {} names '../n01/a_1.JPEG', which is not among"),
        ("a_1.JPEG\na_2.JPEG\na_1.JPEG", "line 3 of image_list {} names 'a_1.JPEG' again, after line 1: take one"),
        ("n01/a_1.JPEG\na_1.JPEG", "line 2 of image_list {} names 'a_1.JPEG' again, after line 1: take one"),
        (
            "same.JPEG",
            "line 1 of image_list {} names 'same.JPEG', which is both n03/same.JPEG and n04/same.JPEG: write",
        ),
        ("\n \n", "image_list {} is empty: name one image per line"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        choose_listed(file, PATHS)
    assert str(caught.value).startswith(said.format(file))
    assert "\n" not in str(caught.value)


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    for name, reason in [("nowhere.txt", "No such file"), (".", "Is a directory"), ("picture.png", "it is no text")]:
        with pytest.raises(RequestError, match=rf"^image_list .* cannot be read \({reason}.*\): give a text file"):
            choose_listed(tmp_path / name, PATHS)
