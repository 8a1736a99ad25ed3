"""Pictures: those of the official code on six channels, and sense everywhere else."""

import bcos.models.resnet
import numpy as np
import pytest
import torch
from bcos.common import gradient_to_image
from bcos.modules import norms as official_norms
from torch import Tensor

from robustbench_bcos.explanations.colours import render, smoothing_window
from robustbench_bcos.explanations.explanation import Explanation, explain
from robustbench_bcos.model_zoo.architectures import build_architecture
from tests.reference.pictures import picture

HEIGHT, WIDTH = 8, 12

# float64; alpha is a quotient of sums of up to 225 terms.
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_images(count: int = 2) -> Tensor:
    return torch.rand((count, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def encode(images: Tensor) -> Tensor:
    return torch.cat([images, 1 - images], dim=1)


def make_explanation(weights: Tensor | None, contributions: Tensor) -> Explanation:
    """One target for each image; pictures do not look at logits."""
    count = len(contributions)
    return Explanation(
        weights=weights,
        contributions=contributions,
        logits=normal(count, 5),
        targets=torch.zeros(count, dtype=torch.long),
    )


def random_explanation(images: Tensor) -> Explanation:
    weights = normal(len(images), 6, HEIGHT, WIDTH)
    return make_explanation(weights, (weights * encode(images)).sum(dim=1))


def assert_picture(pictures: Tensor, count: int = 2) -> None:
    assert pictures.shape == (count, HEIGHT, WIDTH, 4)
    assert ((pictures >= 0) & (pictures <= 1)).all()


def test_picture_of_a_batch_equals_the_official_one_of_each_image() -> None:
    network = build_architecture("bcos_resnet20", in_channels=6, classes=7, arguments={"norm": "position-uncentred"})
    for seed, tensor in enumerate(network.double().state_dict().values()):
        tensor.copy_(normal(*tensor.shape, seed=seed))
    network.eval().requires_grad_(False)
    norm = official_norms.NoBias(official_norms.PositionNormUncentered2d)
    peer = bcos.models.resnet.cifar10_resnet20(num_classes=7, norm_layer=norm).double().eval()
    peer.load_state_dict(network.state_dict())
    images = make_images(3)
    pictures = render(explain(network, encode(images)), images, smooth=15)
    for found, image in zip(pictures, encode(images).split(1), strict=True):
        expected = torch.from_numpy(peer.explain(image.requires_grad_())["explanation"])
        # The weights agree to 1e-7 of the largest: that of a small one may differ by more of itself.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("smooth", [0, 1, 3, 7, 15])
def test_colours_and_alpha_are_the_official_ones_for_every_odd_window(smooth: int) -> None:
    images = make_images()
    explanation = random_explanation(images)
    pictures = render(explanation, images, smooth)
    for found, image, weights in zip(pictures, encode(images), explanation.weights, strict=True):
        expected = torch.from_numpy(gradient_to_image(image, weights, smooth=smooth))
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("smooth", [1, 2, 3, 4, 8])
def test_picture_is_what_its_definition_says_for_even_windows_too(smooth: int) -> None:
    images = make_images()
    explanation = random_explanation(images)
    found = render(explanation, images, smooth)
    for position in range(2):
        expected = picture(explanation.weights[position].numpy(), explanation.contributions[position].numpy(), smooth)
        np.testing.assert_allclose(found[position].numpy(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("size", "window"), [((224, 224), 15), ((8, 8), 1), ((32, 48), 2), ((448, 224), 15)])
def test_window_keeps_its_share_of_the_shorter_side(size: tuple[int, int], window: int) -> None:
    assert smoothing_window(*size) == window


def test_window_that_suits_the_image_is_the_default() -> None:
    images = torch.rand((2, 3, 40, 64), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    explanation = make_explanation(normal(2, 6, 40, 64), normal(2, 40, 64, seed=1))
    assert smoothing_window(40, 64) == 3
    assert torch.equal(render(explanation, images), render(explanation, images, 3))
    assert not torch.equal(render(explanation, images), render(explanation, images, 1))


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("smooth", [0, 2, 3])
def test_weights_of_zero_show_nothing(channels: int, smooth: int) -> None:
    weights = torch.zeros(2, channels, HEIGHT, WIDTH, dtype=torch.float32)
    pictures = render(make_explanation(weights, weights[:, 0]), make_images().float(), smooth)
    assert_picture(pictures)
    assert not pictures[..., 3].any()


def test_images_of_a_batch_are_drawn_one_by_one() -> None:
    images = make_images(3)
    weights = random_explanation(images).weights * torch.tensor([1e-3, 1.0, 1e3]).double().view(3, 1, 1, 1)
    contributions = (weights * encode(images)).sum(dim=1)
    together = render(make_explanation(weights, contributions), images, 3)
    for i in range(3):
        alone = render(make_explanation(weights[i : i + 1], contributions[i : i + 1]), images[i : i + 1], 3)
        torch.testing.assert_close(together[i], alone[0], **CLOSE)


def test_three_channels_are_drawn_like_six_with_the_opposite_on_the_complement() -> None:
    images, weights = make_images(), normal(2, 3, HEIGHT, WIDTH)
    contributions = (weights * images).sum(dim=1)
    three = render(make_explanation(weights, contributions), images, 4)
    six = render(make_explanation(torch.cat([weights, -weights], dim=1), contributions), images, 4)
    assert_picture(three)
    torch.testing.assert_close(three, six, **CLOSE)


def test_three_channels_have_the_colours_their_weights_ask_for() -> None:
    weights = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    weights[0, :, 2, 3] = torch.tensor([2.0, -1.0, 0.5])
    drawn = render(make_explanation(weights, weights.sum(dim=1)), make_images(1), 1)[0, 2, 3]
    torch.testing.assert_close(drawn, torch.tensor([1.0, 0.0, 1.0, 1.0]).double(), **CLOSE)


def test_methods_without_weights_show_the_image_as_strongly_as_its_contributions() -> None:
    images, contributions = make_images(), normal(2, HEIGHT, WIDTH)
    pictures = render(make_explanation(None, contributions), images, 0)
    assert_picture(pictures)
    assert torch.equal(pictures[..., :3], images.movedim(1, 3))
    positive = contributions > 0
    assert (pictures[..., 3][~positive] < 1e-9).all()
    for alpha, values in zip(pictures[..., 3], contributions, strict=True):
        opaque = torch.quantile(values.clamp(min=0), 0.995)
        torch.testing.assert_close(alpha, (values / opaque).clamp(0, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("smooth", [0, 2, 3])
def test_methods_without_weights_show_nothing_where_no_contribution_is_positive(smooth: int) -> None:
    pictures = render(make_explanation(None, -normal(2, HEIGHT, WIDTH).abs() - 0.1), make_images(), smooth)
    assert_picture(pictures)
    assert (pictures[..., 3] < 1e-9).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_picture_does_not_depend_on_the_scale_of_the_map(scale: float) -> None:
    images = make_images()
    explanation = random_explanation(images)
    scaled = make_explanation(scale * explanation.weights, scale * explanation.contributions)
    # 1e-12 guards every quotient, which is 1e-6 of the smallest weights here.
    torch.testing.assert_close(render(scaled, images, 3), render(explanation, images, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_images_are_drawn_as_the_same_grey_in_three_channels(channels: int) -> None:
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(2, channels, 5, 6, generator=random)
    images, contributions = torch.rand(2, 1, 5, 6, generator=random), torch.randn(2, 5, 6, generator=random)
    known = {"contributions": contributions, "logits": torch.zeros(2, 3), "targets": torch.zeros(2, dtype=torch.long)}
    grey = render(Explanation(weights=weights, **known), images)
    colours = render(Explanation(weights=weights.repeat_interleave(3, dim=1), **known), images.expand(-1, 3, -1, -1))
    assert torch.equal(grey[..., 0], grey[..., 1])
    torch.testing.assert_close(grey[..., :3], colours[..., :3])
    plain = render(Explanation(weights=None, **known), images)
    assert torch.equal(plain[..., :3], images.expand(-1, 3, -1, -1).movedim(1, 3))
