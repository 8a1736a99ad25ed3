"""Losses against their NumPy float64 twins, and what each promises beyond its formula."""

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks.losses.bce import bce
from robustbench_bcos.attacks.losses.dlr import dlr
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.core.prediction import predicted_classes
from tests.reference.losses import SLOPES, VALUES

every_loss = pytest.mark.parametrize("name", LOSSES)
every_number_of_classes = pytest.mark.parametrize("classes", [3, 4, 10])


def draw(classes: int, *, scale: float = 3.0, count: int = 25) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(classes)
    logits = torch.from_numpy(random.normal(size=(count, classes)) * scale)
    return logits, torch.from_numpy(random.integers(0, classes, size=count))


def slope_of(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(LOSSES[name](leaf, labels).sum(), leaf)
    return slope


@every_loss
@every_number_of_classes
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_a_loss_equals_its_numpy_twin(name: str, classes: int, scale: float) -> None:
    logits, labels = draw(classes, scale=scale)
    expected = [VALUES[name](one, label) for one, label in zip(logits.numpy(), labels.tolist(), strict=True)]
    # softplus is taken to be linear above 20, which is off by exp(-20) = 2e-9 in 20.
    np.testing.assert_allclose(LOSSES[name](logits, labels).numpy(), expected, rtol=1e-9, atol=1e-12)


@every_loss
@every_number_of_classes
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_a_slope_equals_its_numpy_twin(name: str, classes: int, scale: float) -> None:
    logits, labels = draw(classes, scale=scale)
    expected = [SLOPES[name](one, label) for one, label in zip(logits.numpy(), labels.tolist(), strict=True)]
    # As above; 1e-13 is the rounding of differences that cancel (dlr is constant while the label comes third).
    np.testing.assert_allclose(slope_of(name, logits, labels).numpy(), expected, rtol=1e-8, atol=1e-13)


@every_loss
def test_a_loss_looks_at_one_image_at_a_time(name: str) -> None:
    logits, labels = draw(4)
    together = LOSSES[name](logits, labels)
    apart = torch.cat([LOSSES[name](logits[[image]], labels[[image]]) for image in range(len(logits))])
    torch.testing.assert_close(together, apart, rtol=1e-14, atol=0)


@every_loss
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_no_loss_is_spoilt_by_equal_logits(name: str, classes: int) -> None:
    logits, labels = torch.zeros(5, classes, dtype=torch.float64), torch.zeros(5, dtype=torch.long)
    assert LOSSES[name](logits, labels).isfinite().all()
    assert slope_of(name, logits, labels).isfinite().all()


@every_loss
@pytest.mark.parametrize("classes", [2, 4])
def test_a_loss_grows_as_a_correct_label_loses_its_lead(name: str, classes: int) -> None:
    logits, labels = draw(classes)
    correct = predicted_classes(logits) == labels
    assert (slope_of(name, logits, labels)[correct].gather(1, labels[correct, None]) < 0).all()


@pytest.mark.parametrize("logit", [17.0, 40.0, 104.0, 300.0, 700.0])
def test_bce_has_a_slope_however_sure_the_model_is(logit: float) -> None:
    logits = torch.full((1, 6), -1000.0, dtype=torch.float64)
    logits[0, 2] = logit
    slope = slope_of("bce", logits, torch.tensor([2]))[0, 2]
    assert slope < 0
    np.testing.assert_allclose(slope.item(), -np.exp(-logit) / 6, rtol=1e-6)  # 1 + exp(-17) rather than 1


def test_bce_of_float32_logits_is_taken_in_float64() -> None:
    assert bce(torch.full((1, 3), 50.0), torch.tensor([1])).dtype == torch.float64


@every_number_of_classes
def test_dlr_does_not_depend_on_the_logits_scale_or_shift(classes: int) -> None:
    logits, labels = draw(classes)
    # 1e-12 in the denominator, against gaps of down to 1e-4 of the scale.
    for changed in (1e-3 * logits, 1e6 * logits, logits - 500):
        torch.testing.assert_close(dlr(changed, labels), dlr(logits, labels), rtol=1e-5, atol=1e-9)


def test_dlr_of_two_classes_points_where_the_margin_does() -> None:
    logits, labels = draw(2)
    values, slopes = dlr(logits, labels), slope_of("dlr", logits, labels)
    assert values.isfinite().all()
    torch.testing.assert_close(torch.nn.functional.normalize(slopes), slope_of("margin", logits, labels) / 2**0.5)


def test_the_margin_is_positive_exactly_where_the_prediction_is_wrong() -> None:
    logits, labels = draw(4, count=200)
    wrong = predicted_classes(logits) != labels
    assert wrong.any()
    assert not wrong.all()
    assert torch.equal(margin(logits, labels) > 0, wrong)
