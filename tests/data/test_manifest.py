"""A folder that says which classes it has is numbered as it says, and is not resized again."""

from pathlib import Path

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.manifest import MANIFEST, Manifest, read_manifest
from robustbench_bcos.data.opening import any_size, open_dataset
from tests.data.test_folder import paint


def test_classes_are_numbered_as_the_folder_says_whatever_is_missing(tmp_path: Path) -> None:
    classes = tuple(str(number) for number in range(12))
    assert any_size(f"folder:{tmp_path}")
    for name in ("10", "2", "11"):
        paint(tmp_path / name / "7.png")
    assert Manifest(classes=classes).write(tmp_path) == tmp_path / MANIFEST
    found = open_dataset(f"folder:{tmp_path}", "test")
    assert found.class_names == classes
    assert sorted(found.labels) == [2, 10, 11]
    assert not any_size(f"folder:{tmp_path}")
    assert read_manifest(tmp_path) == Manifest(classes=classes)


def test_a_folder_that_is_no_class_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "cat/1.png")
    paint(tmp_path / "dog/1.png")
    Manifest(classes=("cat", "../cat")).write(tmp_path)
    with pytest.raises(RequestError, match=r"dog is none of the classes in .*: take it out, or add its name there"):
        open_dataset(f"folder:{tmp_path}", "test")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"classes": "cat"}',
        '{"classes": [1]}',
        '{"classes": ["a", "a"]}',
        '{"names": []}',
        '{"classes": [], "adversarial": 1}',
        "\xff",
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    paint(tmp_path / "a/1.png")
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(RequestError) as caught:
        open_dataset(f"folder:{tmp_path}", "test")
    assert str(caught.value).startswith(f"{tmp_path / MANIFEST} does not say which classes the folder has (")
    assert "\n" not in str(caught.value)
