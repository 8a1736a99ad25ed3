"""What can be told without torch: radii, datasets, models and weights that are not to be had."""

from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.foreseen import check_foreseeable, check_radius
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.data.opening import image_shape, open_dataset

SHAPE = (3, 8, 8)


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_may_be_as_large_as_the_pixel_box_and_no_larger(norm: str) -> None:
    diameter = NORMS[norm].diameter(SHAPE)
    check_radius(norm, Quantity.of(diameter), SHAPE)
    with pytest.raises(RequestError, match="larger than the whole pixel range"):
        check_radius(norm, Quantity.of(diameter * 1.001), SHAPE)


@pytest.mark.parametrize(
    ("norm", "eps", "meant"),
    [
        ("linf", "8", "did you mean 8/255? "),
        ("linf", "8.0", "did you mean 8/255? "),
        ("linf", "256", ""),
        ("linf", "1.5", ""),
        ("l2", "14", ""),
    ],
)
def test_a_linf_radius_in_units_of_255_is_recognised(norm: str, eps: str, meant: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_radius(norm, Quantity.of(eps), SHAPE)
    assert str(caught.value) == (
        f"eps {eps} for norm {norm} is larger than the whole pixel range, {NORMS[norm].diameter(SHAPE):g}: {meant}"
        "radii are in units of the pixel range [0, 1]"
    )


def test_a_dataset_that_states_its_shape_has_it() -> None:
    assert image_shape("digits") == open_dataset("digits", "test").read(0).shape
    assert image_shape("folder:anywhere") is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        # Of folders the size is known from what they are cropped to, or the models' cards; else linf alone is judged.
        ({"dataset": "folder:.", "model": "torchvision:any", "crop": 10, "eps": "18"}, "pixel range, 17.3205"),
        ({"dataset": "folder:.", "model": "digits-natural", "eps": "14"}, "pixel range, 13.8564"),
        ({"dataset": "folder:.", "model": "torchvision:any", "norm": "linf", "eps": "8"}, "did you mean 8/255"),
        ({"eps": "13,14"}, "eps 14 for norm l2"),
        ({"image_list": Path("no.txt")}, "image_list are for image files of any size"),
        ({"dataset": "folder:.", "image_list": Path("no.txt")}, "image_list no.txt cannot be read"),
        ({"dataset": "cifar10", "data_dir": Path("nowhere")}, "cifar10 is not in data_dir nowhere"),
        ({"dataset": "cifar10"}, "needs data_dir"),
        ({"dataset": "imagenet", "data_dir": Path("nowhere")}, "data_dir nowhere is not a folder"),
        ({"model": "nothing"}, "unknown model 'nothing'"),
        ({"model": "nowhere_at_all:make"}, "cannot be imported (No module named 'nowhere_at_all')"),
        ({"weights": Path("."), "architecture": "resnet56"}, "weights . cannot be read (Is a directory)"),
        ({"classes": Path("no.txt")}, "classes no.txt cannot be read"),
    ],
)
def test_what_is_not_to_be_had_is_refused(flags: dict[str, Any], said: str, tmp_path: Path) -> None:
    flags = {name: value.split(",") if name == "eps" else value for name, value in flags.items()}
    with pytest.raises(RequestError) as caught:
        check_foreseeable(make_config(flags))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"model": "digits-*", "eps": "13.8"},
        {"space": "encoded", "eps": "19"},
        {"dataset": "folder:.", "model": "torchvision:any,timm:any,robustbench:Standard,sys:path", "eps": "1000"},
        {"dataset": "cifar10", "data_dir": Path("nowhere"), "download": True, "model": "digits-natural", "eps": "0.5"},
    ],
)
def test_what_may_be_to_be_had_is_left_to_whoever_needs_it(flags: dict[str, Any]) -> None:
    several = ("eps", "model")
    check_foreseeable(
        make_config({name: value.split(",") if name in several else value for name, value in flags.items()})
    )
