"""Slopes that survive the confidence of the model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks import gradients as slopes
from robustbench_bcos.attacks.gradients import image_gradient, logit_gradient, usable
from robustbench_bcos.attacks.losses.bce import bce
from robustbench_bcos.attacks.losses.ce import ce
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import find_models
from tests.reference.losses import SLOPES

every_loss = pytest.mark.parametrize("name", LOSSES)


def confident(lead: float) -> tuple[Tensor, Tensor]:
    """Float32 logits of one image with the label ``lead`` above 0 and the others below."""
    return torch.tensor([[-1.5 * lead, lead, -1.25 * lead, -1.4 * lead]]), torch.tensor([1])


def ordinary() -> tuple[Tensor, Tensor]:
    """Float32 logits of six images, the label in first place and in second.

    Not in third: there dlr is constant, and its slope is faint.
    """
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(4))
    ranked = logits.argsort(dim=1, descending=True)
    return logits, torch.cat([ranked[:3, 0], ranked[3:, 1]])


@every_loss
def test_a_slope_of_ordinary_size_is_autograds_to_the_last_bit(name: str) -> None:
    logits, labels = ordinary()
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(LOSSES[name](leaf, labels).sum(), leaf)
    assert torch.equal(logit_gradient(LOSSES[name], logits, labels), expected)


@pytest.mark.parametrize("name", ["bce", "ce"])
@pytest.mark.parametrize("lead", [18.0, 60.0, 100.0, 250.0])
def test_a_faint_slope_is_exact_but_for_a_positive_factor(name: str, lead: float) -> None:
    logits, labels = confident(lead)
    slope = logit_gradient(LOSSES[name], logits, labels)
    expected = SLOPES[name](logits[0].double().numpy(), 1)
    assert np.abs(expected).max() < torch.finfo(torch.float32).eps
    assert slope.dtype == torch.float32
    assert slope.abs().max() == 1
    # Float32.
    np.testing.assert_allclose(slope[0].numpy(), expected / np.abs(expected).max(), rtol=1e-6, atol=1e-6)


def test_bce_keeps_a_slope_where_the_common_form_has_none() -> None:
    logits, labels = confident(90.0)
    leaf = logits.clone().requires_grad_()
    one_hot = F.one_hot(labels, 4).float()
    (common,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(leaf, one_hot), leaf)
    assert (common == 0).all()
    assert logit_gradient(bce, logits, labels)[0].tolist() == pytest.approx([0, -1, 0, 0], abs=1e-9)


@every_loss
def test_multiplying_a_loss_keeps_the_slopes_direction(name: str) -> None:
    logits, labels = ordinary()
    slope = logit_gradient(LOSSES[name], logits, labels)
    scaled = logit_gradient(lambda logits, labels: 1e-30 * LOSSES[name](logits, labels), logits, labels)
    torch.testing.assert_close(F.normalize(scaled), F.normalize(slope), rtol=1e-5, atol=1e-6)  # float32


def test_beyond_float64_the_slope_is_exactly_zero() -> None:
    logits, labels = confident(2000.0)
    for loss in (bce, ce):
        assert (logit_gradient(loss, logits, labels) == 0).all()


@every_loss
def test_a_faint_image_leaves_its_neighbour_alone(name: str) -> None:
    faint, _ = confident(60.0)
    plain = torch.tensor([[0.5, -0.25, 1.0, 0.75]])
    together = logit_gradient(LOSSES[name], torch.cat([faint, plain]), torch.tensor([1, 3]))
    assert torch.equal(together[1:], logit_gradient(LOSSES[name], plain, torch.tensor([3])))
    assert torch.equal(together[:1], logit_gradient(LOSSES[name], faint, torch.tensor([1])))


def test_a_loss_may_know_something_of_each_image_of_the_batch() -> None:
    faint, _ = confident(60.0)
    logits, labels = torch.cat([ordinary()[0], faint, faint]), torch.tensor([0, 1, 2, 3, 0, 1, 1, 1])
    sides = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    together = logit_gradient(lambda logits, labels: sides.to(logits) * ce(logits, labels), logits, labels)
    assert torch.equal(together, sides[:, None] * logit_gradient(ce, logits, labels))


@every_loss
def test_slope_and_gradient_together_are_the_derivative_of_the_loss(
    name: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    images.requires_grad_()
    logits = net(images)
    gradient = image_gradient(logits, images, logit_gradient(LOSSES[name], logits, labels))
    (expected,) = torch.autograd.grad(LOSSES[name](net(images), labels).sum(), images)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    assert images.grad is None


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("name", ["digits-natural", "digits-bcos-b2"])
def test_what_is_propagated_back_is_to_the_last_bit_autograds_own_product_with_the_slope(
    name: str, enabled: bool
) -> None:
    model = find_models(name, Zoo())[0].load().classifier
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(images)
    slope = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    slope[0], slope[1, 2], slope[2, 3], slope[3] = 0.0, -0.0, torch.nan, slope[3] * 1e30
    (expected,) = torch.autograd.grad(logits, images, slope, retain_graph=True)
    with torch.set_grad_enabled(enabled):
        found = image_gradient(logits, images, slope)
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def test_a_network_without_gradient_gives_zeros(images: Tensor) -> None:
    slope = torch.ones(len(images), 7, dtype=torch.float64)
    images.requires_grad_()
    constant = torch.zeros_like(slope).requires_grad_()
    for logits in (torch.zeros_like(slope), constant * 2):
        assert torch.equal(image_gradient(logits, images, slope), torch.zeros_like(images))


@every_loss
@pytest.mark.parametrize("unusual", [True, False])
def test_a_device_that_is_not_asked_gives_the_same_slopes_and_gradients(
    unusual: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = ordinary()
    gradients = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    if unusual:
        logits[0, labels[0]], logits[1, labels[1]] = 200.0, 20.0
        gradients[2, 0, 0, 0], gradients[3] = torch.nan, 0.0

    def found() -> tuple[Tensor, ...]:
        return logit_gradient(LOSSES[name], logits, labels), *usable(gradients)

    asked = found()
    monkeypatch.setattr(slopes, "_known_to_be_none", lambda flags: False)
    for first, second in zip(asked, found(), strict=True):
        assert torch.equal(first, second)
