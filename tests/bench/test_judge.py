"""The judge: measures again, asks the classifier again, accepts what float32 can hold, and never clips."""

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.judge import ThreatViolation, Verdicts, judge
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.rng import PerImageRng

RADII = (1 / 255, 8 / 255, 0.5)
INDICES = (41, 7, 1796, 3, 20)
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}

every_norm = pytest.mark.parametrize("norm", NORMS)


class Shown(nn.Module):
    """A function of the images, by default the first pixel's channels; it remembers what it was shown."""

    def __init__(self, function: Callable[[Tensor], Tensor] = lambda images: images[:, :, 0, 0]) -> None:
        super().__init__()
        self.function = function
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.clone())
        return self.function(images)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def rounding(norm: str, shape: Sequence[int]) -> float:
    """Size of the largest error that storing an image's pixels in [0.5, 1] as float32 can make."""
    return float(NORMS[norm].size(torch.full((1, *shape), 2.0**-25, dtype=torch.float64)))


def on_the_surface(norm: str, epsilon: float, *shape: int, darkest: float = 0.75) -> tuple[Tensor, Tensor]:
    """Bright images, where float32 is coarsest, and darker ones at exactly epsilon, rounded to float32."""
    images = darkest + (1 - darkest) * draw(*shape)
    adversarials = (images.double() + epsilon * NORMS[norm].direction(-draw(*shape, seed=1).double())).float()
    assert adversarials.min() > 0
    return images, adversarials


def decide(
    images: Tensor,
    adversarials: Tensor,
    norm: str = "linf",
    epsilon: float | Tensor = 0.25,
    *,
    classifier: nn.Module | None = None,
    labels: Tensor | None = None,
    criterion: str = "misclassified",
    indices: Sequence[int] = (),
    batch_size: int | None = None,
) -> Verdicts:
    judged, asked = make_criterion(criterion), classifier or Shown()
    labels = torch.zeros(len(images), dtype=torch.long) if labels is None else labels
    target = AttackTarget(
        classifier=asked,
        attack_model=asked,
        images=images,
        labels=labels,
        goals=judged.goals(asked, images, labels),
        threat=Threat.of(norm, epsilon),
        criterion=judged,
        rng=PerImageRng.of(0, indices or range(len(images))),
    )
    return judge(target, adversarials, subject="the cell", batch_size=batch_size)


@every_norm
@pytest.mark.parametrize("epsilon", RADII)
@pytest.mark.parametrize("shape", [(4000, 3, 8, 7), (6, 3, 224, 192)])
def test_float32_images_on_the_surface_of_the_ball_are_accepted(
    norm: str, epsilon: float, shape: tuple[int, ...]
) -> None:
    images, adversarials = on_the_surface(norm, epsilon, *shape)
    sizes = decide(images, adversarials, norm, epsilon).sizes
    # The radius, give or take the rounding of the pixels.
    np.testing.assert_allclose(sizes.numpy(), epsilon, rtol=0, atol=2e-7 + rounding(norm, shape[1:]))


@every_norm
@pytest.mark.parametrize("epsilon", RADII)
@pytest.mark.parametrize("size", [8, 112, 224])
def test_what_a_norm_projects_in_float32_is_accepted_whatever_the_size_of_the_image(
    norm: str, epsilon: float, size: int
) -> None:
    images = torch.full((2, 3, size, size), 0.5)
    # Equal entries are the hardest to sum: each addition rounds the same way.
    perturbations = torch.stack([torch.full((3, size, size), 0.01), draw(3, size, size)])
    decide(images, NORMS[norm].project(images, perturbations, epsilon), norm, epsilon)


@every_norm
@pytest.mark.parametrize("epsilon", [8 / 255, 0.5])
def test_an_image_too_far_by_a_hundred_thousandth_or_two_roundings_is_a_violation(norm: str, epsilon: float) -> None:
    shape = (5, 3, 4, 2)
    images, adversarials = on_the_surface(norm, epsilon, *shape)
    _, farther = on_the_surface(norm, epsilon + max(1e-5 * epsilon, 2 * rounding(norm, shape[1:])), *shape)
    adversarials[3] = farther[3]
    with pytest.raises(ThreatViolation, match=rf"^the cell: .* image 3 exceeds {norm} .* 1 of 5 images"):
        decide(images, adversarials, norm, epsilon, indices=INDICES)


@every_norm
def test_a_small_ball_is_not_widened_by_more_than_the_rounding_of_its_pixels(norm: str) -> None:
    excess = max(2e-7, 2 * rounding(norm, (3, 4, 2)))
    images, adversarials = on_the_surface(norm, 1 / 255 + excess, 5, 3, 4, 2)
    with pytest.raises(ThreatViolation, match="exceeds"):
        decide(images, adversarials, norm, 1 / 255)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "is not finite"),
        (float("inf"), "is not finite"),
        (1 + 1e-6, r"leaves \[0, 1\]"),
        (-1e-9, r"leaves \[0, 1\]"),
    ],
)
@every_norm
def test_a_pixel_that_is_no_pixel_is_a_violation_that_names_cell_and_image(norm: str, value: float, said: str) -> None:
    # Near 0 and near 1, so that the distance alone is no reason.
    images = torch.full((5, 3, 2, 4), 1.0 if value > 0 else 0.0)
    adversarials = images.clone()
    adversarials[2, 1, 0, 3] = value
    with pytest.raises(ThreatViolation, match=f"^the cell: the adversarial example for image 1796 {said}"):
        decide(images, adversarials, norm, indices=INDICES)


def test_nothing_is_clipped_on_the_way_to_the_classifier() -> None:
    images, adversarials = on_the_surface("l2", 0.25, 6, 3, 5, 4)
    before, classifier = adversarials.clone(), Shown()
    decide(images, adversarials, "l2", classifier=classifier)
    assert torch.equal(adversarials, before)
    (shown,) = classifier.shown
    assert torch.equal(shown, before)


def test_predictions_are_the_classifiers_own_and_leave_no_graph() -> None:
    images = draw(7, 3, 5, 4)
    adversarials = images.roll(1, dims=1).requires_grad_()
    verdicts = decide(images, adversarials, epsilon=1.0)
    assert verdicts.predictions.tolist() == adversarials[:, :, 0, 0].argmax(dim=1).tolist()
    assert not torch.equal(verdicts.predictions, images[:, :, 0, 0].argmax(dim=1))
    assert not verdicts.logits.requires_grad


def test_logits_that_are_not_numbers_predict_no_class() -> None:
    images = draw(3, 3, 5, 4)
    logits = torch.tensor([[0.1, 0.3, 0.2], [0.1, torch.nan, 0.3], [torch.inf, 0, 0]])
    asked = {"classifier": Shown(lambda _: logits), "labels": torch.tensor([1, 1, 0])}
    assert decide(images, images, **asked).predictions.tolist() == [1, -1, -1]
    assert decide(images, images, **asked).success.tolist() == [False, True, True]
    assert decide(images, images, **asked, criterion="targeted:2").success.tolist() == [False] * 3


@pytest.mark.parametrize(
    ("criterion", "success", "nearness"),
    [
        ("misclassified", [False, True, True], [-2, 3, 1]),
        ("targeted:2", [False, False, True], [-3, -4, 1]),
        # Of the clean images, the least likely class is 2; of the second it is 0, which is its label.
        ("targeted:least_likely", [False, False, True], [-3, -4, 1]),
    ],
)
def test_success_and_nearness_are_the_criterions(criterion: str, success: list[bool], nearness: list[float]) -> None:
    images = draw(3, 3, 2, 2)
    clean = torch.tensor([[3.0, 2.0, 1.0], [2.0, 4.0, 3.0], [4.0, 3.0, 2.0]])
    attacked = torch.tensor([[4.0, 2.0, 1.0], [2.0, 5.0, 1.0], [1.0, 2.0, 3.0]])
    classifier = Shown(lambda shown: clean if torch.equal(shown, images) else attacked)
    labels = torch.tensor([0, 0, 1])
    verdicts = decide(images, 0.9 * images, criterion=criterion, classifier=classifier, labels=labels)
    assert verdicts.success.tolist() == success
    assert verdicts.nearness.tolist() == nearness
    assert torch.equal(verdicts.logits, attacked)


def test_a_model_is_shown_no_more_than_a_batch_at_a_time() -> None:
    images, classifier = draw(7, 3, 5, 4), Shown()
    together = decide(images, images, classifier=Shown())
    apart = decide(images, images, classifier=classifier, batch_size=3)
    assert [len(shown) for shown in classifier.shown] == [3, 3, 1]
    for field in fields(Verdicts):
        assert torch.equal(getattr(apart, field.name), getattr(together, field.name))


@every_norm
def test_sizes_are_measured_in_float64(norm: str) -> None:
    images, adversarials = on_the_surface(norm, 0.5, 9, 3, 5, 4)
    perturbations = (adversarials.numpy().astype(np.float64) - images.numpy().astype(np.float64)).reshape(9, -1)
    sizes = decide(images, adversarials, norm, 0.5).sizes
    assert sizes.dtype == torch.float64
    np.testing.assert_allclose(sizes.numpy(), np.linalg.norm(perturbations, ord=ORDERS[norm], axis=1), rtol=1e-14)


# An epsilon for each image


@every_norm
def test_each_image_is_held_to_its_own_epsilon(norm: str) -> None:
    radii = torch.tensor([0.02, 0.3, 0.1, 0.0, 0.25], dtype=torch.float64)
    pairs = [on_the_surface(norm, float(radius), 1, 3, 5, 4) for radius in radii]
    images, adversarials = (torch.cat(part) for part in zip(*pairs, strict=True))
    together = decide(images, adversarials, norm, radii)
    torch.testing.assert_close(together.sizes, radii, rtol=0, atol=2e-7 + rounding(norm, (3, 5, 4)))
    for place, radius in enumerate(radii):
        alone = decide(images[place, None], adversarials[place, None], norm, float(radius))
        for field in fields(Verdicts):
            assert torch.equal(getattr(together, field.name)[place, None], getattr(alone, field.name))
    # The largest of them is no excuse for the others.
    for place in radii.nonzero().flatten().tolist():
        smaller = radii.clone()
        smaller[place] *= 1 - 1e-3
        with pytest.raises(ThreatViolation, match=rf"image {INDICES[place]} exceeds {norm} of its own .*1 of 5"):
            decide(images, adversarials, norm, smaller, indices=INDICES)


@every_norm
def test_float32_radii_are_no_stricter_than_float32_pixels(norm: str) -> None:
    radii = (0.01 + 0.4 * draw(40, seed=3)).float()
    pairs = [on_the_surface(norm, float(radius), 1, 3, 8, 7) for radius in radii]
    images, adversarials = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert decide(images, adversarials, norm, radii).sizes.shape == (40,)
