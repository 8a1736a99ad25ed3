"""Which class is which output: lists of all forms, and folders of which nothing tells it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.class_order import ClassOrder, check_order, read_class_order
from robustbench_bcos.data.opening import open_dataset
from tests.data.test_folder import paint
from tests.refusals import refused

NAMES = ("dog", "ant", "cat")


def listed(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "classes.txt"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def classes(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        paint(root / name / "1.png", seed=seed)
    return root


@pytest.mark.parametrize(
    "content",
    [
        "dog\nant\ncat",
        "\ufeff dog \r\n\r\nant\r\ncat\r\n",
        ["dog", "ant", "cat"],
        {"0": "dog", "1": "ant", "2": "cat"},
        {"2": "cat", "0": "dog", "1": "ant"},
        {"dog": 0, "cat": 2, "ant": 1},
        {"model_type": "resnet", "id2label": {"0": "dog", "1": "ant", "2": "cat"}},
        {"0": ["n02", "dog"], "1": ["n03", "ant"], "2": ["n01", "cat"]},
    ],
    ids=[
        "lines",
        "byte order mark",
        "list",
        "index to name",
        "any order",
        "name to index",
        "transformers",
        "several names",
    ],
)
def test_a_list_of_any_form_says_which_folder_is_which_output(content: object, tmp_path: Path) -> None:
    order = read_class_order(listed(tmp_path, content))
    assert order.names == NAMES
    images = open_dataset(f"folder:{classes(tmp_path / 'images', 'ant', 'cat', 'dog')}", "test", class_order=order)
    assert images.class_names == NAMES
    assert images.labels == [1, 2, 0]


def test_folders_may_have_any_of_a_classs_names(tmp_path: Path) -> None:
    order = read_class_order(listed(tmp_path, {"0": ["n02", "dog"], "1": ["n01", "ant"]}))
    assert order.labels(["n01", "n02"]) == {"n01": 1, "n02": 0}


def test_folders_that_are_numbered_are_outputs_of_a_list_of_names() -> None:
    order = ClassOrder.of("a list", [[f"class {number}"] for number in range(12)])
    assert order.labels(["0", "10", "2"]) == {"0": 0, "10": 10, "2": 2}


def test_a_list_of_numbers_is_one_of_names() -> None:
    order = ClassOrder.of("a list", [[name] for name in ("0", "1", "10", "2")])
    assert order.labels(["0", "1", "10", "2"]) == {"0": 0, "1": 1, "10": 2, "2": 3}


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["ant", "cta"], "class folder 'cta' is not among the 3 classes of a list (did you mean 'cat'?): give classes"),
        (["1", "2", "3"], "class folder '1' is not among the 3 classes of a list such as 'dog': give classes"),
        (["0", "00"], "class folder '0' is not among"),
        (["0", "ant"], "class folder '0' is not among"),
    ],
)
def test_a_folder_that_is_not_listed_is_refused(folders: list[str], said: str) -> None:
    order = ClassOrder.of("a list", [[name] for name in NAMES])
    assert refused(lambda: order.labels(folders)).startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty: give a text file with a name per line"),
        ("dog\nant\ndog\n", "names 'dog' twice, as output 0 and 2: correct it"),
        ("[1, 2]", "is JSON of another form: give a text file"),
        ('{"0": "dog", "2": "cat"}', r"numbers outputs 0, 2, and 2 names are those of outputs 0 to 1, each once"),
        ('{"1": "dog", "2": "cat"}', "numbers outputs 1, 2, and 2 names"),
        ('{"dog": 0, "cat": 0}', "numbers outputs 0, 0, and 2 names"),
        ('{"0": {"name": "dog"}}', "is JSON of another form"),
        ('{"0": "dog"', "is JSON of another form"),
        ("[" * 100_000, "is JSON of another form"),
        ("[]", "is empty"),
    ],
)
def test_a_list_that_leaves_something_open_is_refused(content: str, said: str, tmp_path: Path) -> None:
    file = listed(tmp_path, content)
    assert refused(lambda: read_class_order(file)).startswith(f"classes {file} {said}")


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    for name, reason in [("nowhere.txt", "No such file"), (".", "Is a directory"), ("picture.png", "it is no text")]:
        said = refused(lambda name=name: read_class_order(tmp_path / name))
        assert re.search(rf"^classes .* cannot be read \({reason}.*\): give a text file", said)


# Folders of which nothing tells it


@pytest.mark.parametrize(
    ("names", "orders"),
    [
        ([str(number) for number in range(12)], ("(0, 1, 10, 11, 2, ...)", "(0, 1, 2, 3, 4, ...)")),
        (["1", "2", "10"], ("(1, 10, 2)", "(1, 2, 10)")),
        (["-10", "-2", "5", "10"], ("(-10, -2, 10, 5)", "(-10, -2, 5, 10)")),
        (["0.5", "10", "9"], ("(0.5, 10, 9)", "(0.5, 9, 10)")),
        (["class_1", "class_2", "class_10"], ("(class_1, class_10, class_2)", "(class_1, class_2, class_10)")),
        (["1.cat", "2.dog", "10.ant"], ("(1.cat, 10.ant, 2.dog)", "(1.cat, 2.dog, 10.ant)")),
        (["9cm", "10cm"], ("(10cm, 9cm)", "(9cm, 10cm)")),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_folders_whose_numbers_sort_otherwise_as_text_are_refused_with_both_orders(
    names: Sequence[str], orders: tuple[str, str], tmp_path: Path
) -> None:
    classes(tmp_path, *names)
    said = refused(lambda: open_dataset(f"folder:{tmp_path}", "test"))
    assert f"their order as text {orders[0]} is not that of their numbers {orders[1]}" in said
    assert said.endswith(
        "give classes, a file with the folders' names, one a line, in the order of the model's outputs"
    )


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2"],
        ["00", "01", "10"],
        ["n01440764", "n02102040"],
        ["10 of clubs", "2 of clubs", "ace of spades"],
        ["b1", "b10", "c2"],
        ["1", "10", "2", "other"],
    ],
    ids=" ".join,
)
def test_folders_that_have_one_order_are_not(names: list[str]) -> None:
    check_order("folder:DIR", names)


def test_datasets_whose_labels_are_known_take_no_list(tmp_path: Path) -> None:
    order = read_class_order(listed(tmp_path, "dog\nant"))
    said = refused(lambda: open_dataset("digits", "test", class_order=order))
    assert said.startswith("the classes of dataset digits have their order, and classes ")
    assert said.endswith("leave it out")
    with pytest.raises(RequestError, match="of dataset imagenet have their order"):
        open_dataset("imagenet", "test", data_dir=tmp_path, class_order=order)
