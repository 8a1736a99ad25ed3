"""Resizing and cropping, beside torchvision's presets, RobustBench's transforms and Pillow itself."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models import ResNet50_Weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

SIZES = [(37, 50), (50, 37), (41, 41), (24, 90), (19, 23)]
"""Heights and widths: landscape, portrait, square, long, and smaller than what they are resized to."""


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_torchvisions_presets(size: tuple[int, int], interpolation: Any) -> None:
    preset = ImageClassification(
        crop_size=21,
        resize_size=25,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=InterpolationMode(interpolation),
    )
    ours = Preprocessing(resize=25, crop=(21, 21), interpolation=interpolation)
    assert torch.equal(ours.pixels(picture(size), "it"), preset(picture(size)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_robustbenchs_transforms(size: tuple[int, int], interpolation: Any) -> None:
    theirs = transforms.Compose(
        [
            transforms.Resize(26, interpolation=InterpolationMode(interpolation)),
            transforms.CenterCrop(22),
            transforms.ToTensor(),
        ]
    )
    ours = Preprocessing(resize=26, crop=(22, 22), interpolation=interpolation)
    assert torch.equal(ours.pixels(picture(size), "it"), theirs(picture(size)))


def test_published_weights_of_torchvision_get_the_images_that_they_were_measured_on() -> None:
    preset = ResNet50_Weights.IMAGENET1K_V2.transforms()
    ours = Preprocessing(resize=232, crop=(224, 224)).pixels(picture((375, 500)), "it")
    mean, std = (torch.tensor(part)[:, None, None] for part in (preset.mean, preset.std))
    torch.testing.assert_close((ours - mean) / std, preset(picture((375, 500))), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "resized", "top", "left"),
    [((37, 50), (25, 33), 2, 6), ((50, 37), (33, 25), 6, 2), ((19, 23), (25, 30), 2, 4)],
)
def test_the_shorter_side_is_resized_and_the_middle_is_kept(
    size: tuple[int, int], resized: tuple[int, int], top: int, left: int
) -> None:
    by_hand = np.asarray(picture(size).resize((resized[1], resized[0]), Image.Resampling.BILINEAR))
    kept = by_hand[top : top + 21, left : left + 21].astype(np.float32) / 255
    ours = Preprocessing(resize=25, crop=(21, 21)).pixels(picture(size), "it")
    np.testing.assert_array_equal(ours.permute(1, 2, 0).numpy(), kept)
    uncropped = Preprocessing(resize=25).pixels(picture(size), "it")
    assert uncropped.shape == (3, *resized)


def test_what_is_made_smaller_is_averaged_and_not_picked_from() -> None:
    # Stripes of one pixel: without antialiasing some would survive.
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    found = Preprocessing(resize=8).pixels(Image.fromarray(stripes), "it")
    assert (found[:, :, 1:-1] - 0.5).abs().max() < 0.02


def test_a_crop_alone_cuts_from_the_image_as_it_is() -> None:
    whole = AS_THEY_ARE.pixels(picture((37, 50)), "it")
    np.testing.assert_array_equal(
        whole.permute(1, 2, 0).numpy(), np.asarray(picture((37, 50))).astype(np.float32) / 255
    )
    assert torch.equal(Preprocessing(crop=(11, 20)).pixels(picture((37, 50)), "it"), whole[:, 13:24, 15:35])


@pytest.mark.parametrize(
    ("preprocessing", "size", "said"),
    [
        (
            Preprocessing(crop=(21, 21)),
            (20, 30),
            "it has 20x30 pixels, less than the 21x21 of the crop: give resize 21",
        ),
        (Preprocessing(crop=(21, 21)), (30, 20), "it has 30x20 pixels, less than the 21x21 of the crop"),
        (
            Preprocessing(resize=12, crop=(12, 25)),
            (20, 30),
            "it has 12x18 pixels after it has been resized, less than the 12x25 of the crop: give resize 25",
        ),
    ],
)
def test_images_smaller_than_the_crop_are_refused_and_not_filled_up(
    preprocessing: Preprocessing, size: tuple[int, int], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        preprocessing.pixels(picture(size), "it")
    assert str(caught.value).startswith(said)


def test_a_crop_that_fits_into_nothing_is_refused_at_once() -> None:
    with pytest.raises(
        RequestError, match=r"^a crop to 225x225 pixels does not fit into .* is resized to 224: give a "
    ):
        Preprocessing(resize=224, crop=(225, 225))
    assert Preprocessing(resize=224, crop=(224, 300)).crop == (224, 300)


def test_it_says_what_it_does_in_plain_words() -> None:
    assert str(AS_THEY_ARE) == ""
    assert str(Preprocessing(resize=256)) == "shorter side resized to 256 pixels (bilinear)"
    assert str(Preprocessing(crop=(20, 30))) == "middle 20x30 cropped out"
    said = "shorter side resized to 256 pixels (bicubic), middle 224x224 cropped out"
    assert str(Preprocessing(resize=256, crop=(224, 224), interpolation="bicubic")) == said
