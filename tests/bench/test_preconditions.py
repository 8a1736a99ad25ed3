"""What is tried on a few images before hours are spent: a model that does not fit is refused in one sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.preconditions import check_model
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.models import own_model
from tests.bench.tiny_zoo import tiny_request


class Own(nn.Module):
    """Four logits that are what a function makes of the images."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def good(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :4]


def raising(error: Exception) -> Callable[[Tensor], Any]:
    def function(images: Tensor) -> Any:
        raise error

    return function


def two_or_more(images: Tensor) -> Tensor:
    if len(images) == 1:
        raise ValueError("more than one value is needed")
    return good(images)


def check(function: Callable[[Tensor], Any], **changes: Any) -> None:
    images = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    chosen = EvalSubset.of(InMemory(images, torch.tensor([0, 1, 2]), classes=4))
    model = replace(own_model("mine", Own(function)), **changes)
    check_model(model, chosen, device="cpu", space="image")


def test_a_model_that_fits_is_accepted() -> None:
    check(good)
    check(good, image_size=(6, 5), classes=4)
    check(lambda images: (good(images), 1))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raising(RuntimeError("mat1 and mat2 cannot be multiplied. More follows")), r"\(mat1 .* multiplied\): choose"),
        (raising(ValueError()), r"fails on images of shape \(3, 6, 5\) \(ValueError\)"),
        (raising(AssertionError("expected 32 pixels\nsecond line")), r"\(expected 32 pixels\): choose models that fit"),
        (lambda images: (images, 1), "returns tuple: it must return a tensor of floating-point logits"),
        (
            lambda images: (good(images), good(images)),
            "returns tuple .* each of which may be logits: return the logits",
        ),
        (lambda images: None, "returns NoneType: it must return a tensor"),
        (lambda images: good(images).long(), "returns torch.int64: it must return a tensor of floating-point"),
        (lambda images: images.flatten(1)[:, :5], r"outputs of shape \(2, 5\) for 2 images, and memory has 4 classes"),
        (lambda images: good(images)[..., None], r"outputs of shape \(2, 4, 1\)"),
        (lambda images: good(images).sum(), r"outputs of shape \(\)"),
        (lambda images: good(images[:1]), "it must give one logit per image and class"),
        (lambda images: good(images) / 0, "NaN or infinite logits on clean images: check its weights"),
        (lambda images: good(images.mul_(2)), "changes the images it is given: it must work on a copy"),
        (lambda images: good(images)[..., None].squeeze(), r"fails on one image alone \(the model gives .* \(4,\) for"),
        (two_or_more, r"fails on one image alone \(more than one value is needed\): it must keep the images' axis"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_a_sentence(function: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        check(function)
    assert str(caught.value).startswith("model 'mine' ")
    assert "\n" not in str(caught.value)


def test_a_model_for_images_of_another_size_is_refused_before_it_is_run() -> None:
    with pytest.raises(RequestError, match="model 'mine' takes images of 8x8 pixels and memory has 6x5"):
        check(raising(KeyError("never called")), image_size=(8, 8))


def test_a_bug_in_ones_own_model_keeps_its_traceback() -> None:
    bug = KeyError("mine")
    with pytest.raises(RequestError, match=r"fails on images of shape .* \(KeyError: 'mine'\): ") as caught:
        check(raising(bug))
    assert caught.value.__cause__ is bug


def test_the_encoded_space_needs_an_encoding(tiny_zoo: Path) -> None:
    assert {cell.space for cell in tiny_request(tiny_zoo, model=("tiny-bcos",), space="encoded").cells} == {"encoded"}
    with pytest.raises(
        RequestError, match=r"'mine' has no encoding that fills .* choose other models, or --space image"
    ):
        check_model(own_model("mine", Own(good)), tiny_request(tiny_zoo, limit=2).subset, device="cpu", space="encoded")
