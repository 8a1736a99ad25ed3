"""The judge: measures again, asks the classifier again, accepts what float32 can hold, and never clips."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench.judge import ThreatViolation, judge

RADII = (1 / 255, 8 / 255, 0.5)
INDICES = (41, 7, 1796, 3, 20)

every_ball = pytest.mark.parametrize("norm", NORMS)


class Corner(nn.Module):
    """Three logits, read off the first pixel's channels."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def on_the_surface(norm: str, epsilon: float, *shape: int, darkest: float = 0.75) -> tuple[Tensor, Tensor]:
    """Bright images, where float32 is coarsest, and darker adversarials at exactly epsilon, rounded to float32."""
    images = darkest + (1 - darkest) * draw(*shape)
    direction = -draw(*shape, seed=1).double()
    direction = (
        direction.sign() if norm == "linf" else direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
    )
    adversarials = (images.double() + epsilon * direction).float()
    assert adversarials.min() > 0
    return images, adversarials


def decide(
    images: Tensor, adversarials: Tensor, norm: str = "linf", epsilon: float | Tensor = 0.25, **changes: Any
) -> Any:
    arguments: dict[str, Any] = {"cell": "some cell", "indices": range(len(images)), **changes}
    return judge(Corner(), images, adversarials, NORMS[norm], epsilon, **arguments)


@every_ball
@pytest.mark.parametrize("epsilon", RADII)
@pytest.mark.parametrize("shape", [(4000, 3, 8, 7), (6, 3, 224, 192)])
def test_float32_candidates_on_the_surface_of_the_ball_are_accepted(
    norm: str, epsilon: float, shape: tuple[int, ...]
) -> None:
    images, adversarials = on_the_surface(norm, epsilon, *shape)
    sizes = decide(images, adversarials, norm, epsilon).sizes
    # The radius, give or take the rounding of the adversarials' pixels.
    np.testing.assert_allclose(sizes.numpy(), epsilon, rtol=0, atol=2e-7)


@every_ball
@pytest.mark.parametrize("epsilon", RADII)
@pytest.mark.parametrize("size", [8, 112, 224])
def test_what_a_ball_projects_in_float32_is_accepted_whatever_the_size_of_the_image(
    norm: str, epsilon: float, size: int
) -> None:
    images = torch.full((2, 3, size, size), 0.5)
    # Equal entries are the hardest to sum: each addition rounds the same way.
    deltas = torch.stack([torch.full((3, size, size), 0.01), draw(3, size, size)])
    decide(images, images + NORMS[norm].project(deltas, epsilon), norm, epsilon)


@every_ball
@pytest.mark.parametrize("epsilon", [8 / 255, 0.5])
def test_a_candidate_too_far_by_a_hundred_thousandth_is_a_violation(norm: str, epsilon: float) -> None:
    images, adversarials = on_the_surface(norm, epsilon, 5, 3, 4, 2)
    _, farther = on_the_surface(norm, epsilon * (1 + 1e-5), 5, 3, 4, 2)
    adversarials[3] = farther[3]
    with pytest.raises(ThreatViolation, match=rf"^the cell: .* image 3 exceeds {norm} radius .* 1 of 5 adversarials"):
        decide(images, adversarials, norm, epsilon, cell="the cell", indices=INDICES)


@every_ball
def test_a_small_ball_is_not_widened_by_more_than_the_rounding_of_a_pixel(norm: str) -> None:
    images, adversarials = on_the_surface(norm, 1 / 255 + 2e-7, 5, 3, 4, 2)
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
@every_ball
def test_a_pixel_that_is_no_pixel_is_a_violation_that_names_cell_and_image(norm: str, value: float, said: str) -> None:
    # Near 0 and near 1, so that the distance alone is no reason.
    images = torch.full((5, 3, 2, 4), 1.0 if value > 0 else 0.0)
    adversarials = images.clone()
    adversarials[2, 1, 0, 3] = value
    with pytest.raises(ThreatViolation, match=f"^the cell: the adversarial for image 1796 {said}"):
        decide(images, adversarials, norm, cell="the cell", indices=INDICES)


def test_nothing_is_clipped_on_the_way_to_the_classifier() -> None:
    images, adversarials = on_the_surface("l2", 0.25, 6, 3, 5, 4)
    before, shown = adversarials.clone(), []

    def classifier(asked: Tensor) -> Tensor:
        shown.append(asked.clone())
        return Corner()(asked)

    judge(classifier, images, adversarials, NORMS["l2"], 0.25, cell="", indices=range(6))
    assert torch.equal(adversarials, before)
    assert len(shown) == 1
    assert torch.equal(shown[0], before)


def test_predictions_are_the_classifiers_own_and_leave_no_graph() -> None:
    images = draw(7, 3, 5, 4)
    adversarials = images.roll(1, dims=1).requires_grad_()
    verdicts = decide(images, adversarials, epsilon=1.0)
    assert verdicts.predictions.tolist() == adversarials[:, :, 0, 0].argmax(dim=1).tolist()
    assert not torch.equal(verdicts.predictions, images[:, :, 0, 0].argmax(dim=1))
    assert not verdicts.predictions.requires_grad


def test_logits_that_are_not_numbers_predict_no_class() -> None:
    images = draw(3, 3, 5, 4)

    def classifier(asked: Tensor) -> Tensor:
        return torch.stack([Corner()(asked)[0], torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([torch.inf, 0, 0])])

    verdicts = judge(classifier, images, images, NORMS["l2"], 0.5, cell="", indices=range(3))
    assert verdicts.predictions.tolist() == [images[0, :, 0, 0].argmax(), -1, -1]


@every_ball
def test_sizes_are_measured_in_float64(norm: str) -> None:
    images, adversarials = on_the_surface(norm, 0.5, 9, 3, 5, 4)
    deltas = adversarials.numpy().astype(np.float64) - images.numpy().astype(np.float64)
    flat = np.abs(deltas.reshape(9, -1))
    expected = flat.max(axis=1) if norm == "linf" else np.sqrt(np.sum(flat**2, axis=1))
    sizes = decide(images, adversarials, norm, 0.5).sizes
    assert sizes.dtype == torch.float64
    np.testing.assert_allclose(sizes.numpy(), expected, rtol=1e-14)


# An epsilon for each image


@every_ball
def test_each_image_is_held_to_its_own_epsilon(norm: str) -> None:
    radii = torch.tensor([0.02, 0.3, 0.1, 0.0, 0.25], dtype=torch.float64)
    pairs = [on_the_surface(norm, float(radius), 1, 3, 5, 4) for radius in radii]
    images, adversarials = (torch.cat(part) for part in zip(*pairs, strict=True))
    together = decide(images, adversarials, norm, radii)
    torch.testing.assert_close(together.sizes, radii, rtol=0, atol=2e-7)  # rounding of the pixels
    for place, radius in enumerate(radii):
        alone = decide(images[place, None], adversarials[place, None], norm, float(radius))
        for part, theirs in zip(together, alone, strict=True):
            assert torch.equal(part[place, None], theirs)
    # The largest of them is no excuse for the others.
    for place in radii.nonzero().flatten().tolist():
        smaller = radii.clone()
        smaller[place] *= 1 - 1e-4
        with pytest.raises(ThreatViolation, match=rf"image {INDICES[place]} exceeds {norm} radius of its own .*1 of 5"):
            decide(images, adversarials, norm, smaller, indices=INDICES)


@every_ball
def test_float32_radii_are_no_stricter_than_float32_pixels(norm: str) -> None:
    radii = (0.01 + 0.4 * draw(40, seed=3)).float()
    pairs = [on_the_surface(norm, float(radius), 1, 3, 8, 7) for radius in radii]
    images, adversarials = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert decide(images, adversarials, norm, radii).sizes.shape == (40,)
