"""Datasets by name: those of this package, and somebody's own in one file."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.plugins import load_plugins
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.data.opening import (
    any_size,
    check_images,
    is_dataset,
    models_of,
    open_dataset,
    usages,
    usual_size,
)
from robustbench_bcos.data.subset import EvalSubset

SQUARES = """
import torch
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import AbstractNamedDataset

@DATASETS.registered("squares")
class Squares(AbstractNamedDataset):
    argument, argument_optional = "SIZE", True

    def __init__(self, size):
        self.name, self.labels, self.class_names = f"squares:{size}", [0, 1], ("black", "white")
        self.size = size

    @classmethod
    def open(cls, request):
        return cls(int(request.argument or 4))

    def read(self, index):
        return torch.full((3, self.size, self.size), float(self.labels[index]))
"""


@pytest.fixture
def squares(tmp_path: Path, registries: None) -> None:
    (tmp_path / "squares.py").write_text(SQUARES)
    load_plugins([tmp_path / "squares.py"])


@pytest.mark.usefixtures("squares")
@pytest.mark.parametrize(("name", "size"), [("squares", 4), ("squares:6", 6)])
def test_a_dataset_of_ones_own_is_one_file(name: str, size: int) -> None:
    images = EvalSubset.of(open_dataset(name, "test"))
    assert images.image_shape == (3, size, size)
    assert len(images.digest) == 64
    assert is_dataset(name)
    assert not any_size(name)
    assert "squares" in usages()


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_more_images_than_there_are_is_refused_without_torch(name: str, tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / label / "0.png")
    dataset = name if name == "digits" else f"folder:{tmp_path}"
    there = len(open_dataset(dataset, "test"))
    check_images(dataset, limit=there, indices=[there - 1])
    for asked in ({"limit": there + 1, "indices": []}, {"limit": None, "indices": [there]}):
        with pytest.raises(RequestError, match=f"{there} images of|0 to {there - 1}$"):
            check_images(dataset, **asked)  # type: ignore[arg-type] # mypy sees one type for both


def test_what_is_made_of_a_dataset_is_answered_by_the_models_of_that() -> None:
    assert models_of("digit_pairs:7") == "digits"
    assert [models_of(name) for name in ("digits", "folder:DIR")] == ["digits", "folder:DIR"]


def test_listing_datasets_and_what_they_say_of_themselves_imports_no_library() -> None:
    code = (
        "import sys\n"
        "from robustbench_bcos.data.opening import any_size, usages\n"
        "print(*usages(), any_size('imagenet'), any_size('digits'), any_size('folder:DIR'))\n"
        "print({'torch', 'torchvision', 'sklearn', 'numpy'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert all(usage in said[0] for usage in ("cifar10", "digits", "folder:DIR", "imagenet"))
    assert said[0].endswith(" True False True")
    assert said[1] == "set()"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digit", "unknown dataset 'digit': did you mean 'digits'? choose from cifar10, digit_pairs[:SEED], digits, "),
        ("mnist", "unknown dataset 'mnist': choose from "),
        ("coco", "unknown dataset 'coco': choose from "),
        ("memory", "unknown dataset 'memory': choose from "),
        ("folder", "dataset 'folder' lacks its argument: write folder:DIR"),
        ("folder:", "dataset 'folder:' lacks its argument: write folder:DIR"),
        ("digits:8", "dataset 'digits' takes no argument, got '8': write digits"),
    ],
)
def test_a_name_that_opens_nothing_is_refused_with_what_there_is(name: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        open_dataset(name, "test")
    assert str(caught.value).startswith(said)


class Wrong(AbstractDataset):
    """Two images that are not as they must be."""

    def __init__(self, image: torch.Tensor, label: int) -> None:
        self.name, self.labels, self.class_names = "wrong", [0, label], ("a", "b")
        self.image = image

    def read(self, index: int) -> torch.Tensor:
        return self.image


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 4, 5, dtype=torch.uint8),
        torch.zeros(3, 4, 5, dtype=torch.float64),
        torch.full((3, 4, 5), 255.0),
        torch.full((3, 4, 5), -0.5),
        torch.full((3, 4, 5), torch.nan),
        torch.zeros(1, 4, 5),
    ],
    ids=["bytes", "double", "above 1", "below 0", "NaN", "grey"],
)
def test_pixels_that_no_attack_could_use_are_refused_before_it(image: torch.Tensor) -> None:
    with pytest.raises(RequestError, match=r"^wrong gives images of shape .*: they must be RGB"):
        _ = EvalSubset.of(Wrong(image, 1)).digest


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(RequestError, match=f"^wrong has a label {label} and 2 classes: labels are"):
        EvalSubset.of(Wrong(torch.zeros(3, 4, 5), label))


@pytest.mark.parametrize(
    ("dataset", "size"),
    [("digits", (8, 8)), ("digit_pairs", (8, 16)), ("imagenet", (224, 224)), ("folder:DIR", None), ("theirs", None)],
)
def test_the_size_of_images_is_known_by_the_dataset(dataset: str, size: tuple[int, int] | None) -> None:
    assert usual_size(dataset) == size
