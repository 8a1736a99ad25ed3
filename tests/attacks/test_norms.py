"""What every norm promises, checked for each that is registered; and closed forms of two."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.core.rng import generator

# Multiples of 1e-6: none so small that its square is 0, so that what lies inside is returned to the last bit.
entries = st.integers(-2_000_000, 2_000_000).map(lambda millionths: millionths / 1e6)
shapes = arrays.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=4)
perturbations = arrays.arrays(np.float64, shapes, elements=entries).map(torch.from_numpy)
epsilons = st.floats(1e-3, 3)

every_norm = pytest.mark.parametrize("norm", NORMS)
with_a_closed_form = pytest.mark.parametrize(
    ("norm", "order", "dual_order"), [("l1", 1, np.inf), ("l2", 2, 2), ("linf", np.inf, 1)]
)
quick = settings(max_examples=40, deadline=None)


def inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(1).sum(dim=1)


def dual_size(norm: str, gradient: Tensor) -> Tensor:
    """The most that a perturbation of size 1 gains."""
    return inner(gradient, NORMS[norm].steepest_ascent(gradient))


def of_order(order: float, perturbation: Tensor) -> NDArray[np.float64]:
    return np.array([np.linalg.norm(one.numpy().ravel(), ord=order) for one in perturbation])


@every_norm
def test_a_norm_is_registered_under_its_own_name(norm: str) -> None:
    assert NORMS[norm].name == repr(NORMS[norm]) == norm


# Size


@with_a_closed_form
@given(perturbation=perturbations)
@quick
def test_size_is_the_closed_form(norm: str, order: float, dual_order: float, perturbation: Tensor) -> None:
    np.testing.assert_allclose(NORMS[norm].size(perturbation), of_order(order, perturbation), rtol=1e-14)
    np.testing.assert_allclose(dual_size(norm, perturbation), of_order(dual_order, perturbation), rtol=1e-13)


@every_norm
@given(data=st.data(), one=perturbations, factor=st.floats(-3, 3))
@quick
def test_size_is_a_norm(norm: str, data: st.DataObject, one: Tensor, factor: float) -> None:
    other = torch.from_numpy(data.draw(arrays.arrays(np.float64, one.shape, elements=entries)))
    size = NORMS[norm].size
    torch.testing.assert_close(size(factor * one), abs(factor) * size(one), rtol=1e-13, atol=1e-15)
    assert (size(one + other) <= (size(one) + size(other)) * (1 + 1e-13)).all()
    assert torch.equal(size(one) > 0, (one != 0).flatten(1).any(dim=1))


@every_norm
def test_diameter_is_the_distance_from_black_to_white(norm: str) -> None:
    corner_to_corner = NORMS[norm].size(torch.ones(1, 3, 5, 4, dtype=torch.float64))
    assert NORMS[norm].diameter((3, 5, 4)) == pytest.approx(float(corner_to_corner), rel=1e-14)


# Steepest ascent


def rivals(norm: str, gradient: Tensor) -> Iterator[Tensor]:
    """Perturbations of size 1 at most: corners and edges of the balls there are, the nearest to the gradient, draws."""
    seen = NORMS[norm].size
    first = torch.zeros_like(gradient).flatten(1)
    first[:, 0] = 1
    steepest_pixel = torch.nn.functional.one_hot(gradient.flatten(1).abs().argmax(dim=1), first.shape[1])
    signs, draws = gradient.sign(), torch.randn(gradient.shape, generator=generator(1), dtype=torch.float64)
    pixels = (steepest_pixel * signs.flatten(1)).view_as(gradient)
    for rival in (gradient, signs, pixels, first.view_as(gradient), draws):
        yield rival / seen(rival).clamp(min=1e-9)[:, None, None, None]
    yield NORMS[norm].project_onto_ball(1e6 * gradient, 1.0)
    sources = [generator(2, place) for place in range(len(gradient))]
    yield NORMS[norm].sample(gradient.shape[1:], 1.0, sources).double()


@every_norm
@given(gradient=perturbations)
@quick
def test_no_perturbation_of_size_one_gains_more_than_steepest_ascent(norm: str, gradient: Tensor) -> None:
    steepest = NORMS[norm].steepest_ascent(gradient)
    expected = (gradient != 0).flatten(1).any(dim=1).double()
    torch.testing.assert_close(NORMS[norm].size(steepest), expected, rtol=1e-14, atol=0)
    for rival in rivals(norm, gradient):
        assert (NORMS[norm].size(rival) <= 1 + 1e-6).all()  # draws are float32
        # Sums of up to 64 products of size up to 2; the nearest to a gradient is so in the limit of a large one.
        assert (inner(gradient, rival) <= inner(gradient, steepest) * (1 + 1e-6) + 1e-12).all()


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e30])
@given(gradient=perturbations)
@quick
def test_steepest_ascent_does_not_depend_on_the_gradients_scale(norm: str, scale: float, gradient: Tensor) -> None:
    # In float32 the squares of such entries would underflow and overflow.
    direction = NORMS[norm].steepest_ascent(gradient.float())
    rescaled = NORMS[norm].steepest_ascent(gradient.float() * scale)
    torch.testing.assert_close(rescaled, direction, rtol=1e-6, atol=1e-6)  # the product is rounded


@every_norm
def test_a_zero_gradient_stays_put_and_leaves_its_neighbour_alone(norm: str) -> None:
    gradients = torch.zeros(2, 3, 1, 4)
    gradients[1, 2, 0, 3] = -5.0
    assert torch.equal(NORMS[norm].steepest_ascent(gradients), gradients / 5)


# Projections


@every_norm
@given(perturbation=perturbations, epsilon=epsilons)
@quick
def test_projection_lands_in_the_ball_and_stays(norm: str, perturbation: Tensor, epsilon: float) -> None:
    once = NORMS[norm].project_onto_ball(perturbation, epsilon)
    assert (NORMS[norm].size(once) <= epsilon * (1 + 1e-14)).all()  # one rounding of the length
    torch.testing.assert_close(NORMS[norm].project_onto_ball(once, epsilon), once, rtol=1e-14, atol=0)


@every_norm
@given(perturbation=perturbations, slack=st.floats(1.001, 5))
@quick
def test_projection_leaves_alone_what_is_inside(norm: str, perturbation: Tensor, slack: float) -> None:
    epsilon = slack * max(float(NORMS[norm].size(perturbation).max()), 1e-3)
    assert torch.equal(NORMS[norm].project_onto_ball(perturbation, epsilon), perturbation)


@every_norm
@given(perturbation=perturbations, epsilon=epsilons)
@quick
def test_projection_is_the_nearest_point(norm: str, perturbation: Tensor, epsilon: float) -> None:
    # p is nearest in a convex set iff no q in it has <perturbation - p, q - p> > 0; the most any q of the ball
    # reaches is epsilon times the dual norm of perturbation - p.
    projected = NORMS[norm].project_onto_ball(perturbation, epsilon)
    rest = perturbation - projected
    # Where nothing but rounding is left, steepest ascent would follow it.
    outside = inner(rest, rest) > 1e-20
    reach = (epsilon * dual_size(norm, rest) - inner(rest, projected))[outside]
    np.testing.assert_allclose(reach, 0, atol=1e-12)  # sums of up to 64 products of size up to 4


def test_l2_projection_is_what_a_constrained_minimiser_finds() -> None:
    perturbation = np.random.default_rng(3).normal(size=(2, 3, 1))
    found = optimize.minimize(
        lambda point: np.sum((point - perturbation.ravel()) ** 2),
        np.full(perturbation.size, 0.1),
        jac=lambda point: 2 * (point - perturbation.ravel()),
        constraints=[{"type": "ineq", "fun": lambda point: 0.7**2 - np.sum(point**2)}],
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    projected = NORMS["l2"].project_onto_ball(torch.from_numpy(perturbation)[None], 0.7)
    np.testing.assert_allclose(projected.numpy().ravel(), found.x, atol=1e-6)  # the minimiser's own accuracy


@every_norm
@given(data=st.data(), perturbation=perturbations, epsilon=epsilons)
@quick
def test_perturbed_images_stay_in_the_ball_and_the_pixel_box(
    norm: str, data: st.DataObject, perturbation: Tensor, epsilon: float
) -> None:
    images = torch.from_numpy(data.draw(arrays.arrays(np.float64, perturbation.shape, elements=st.floats(0, 1))))
    projected = NORMS[norm].project(images, perturbation, epsilon)
    assert projected.min() >= 0
    assert projected.max() <= 1
    # Each of at most 64 sums of a pixel and its perturbation is rounded by 2^-53.
    assert (NORMS[norm].size(projected - images) <= epsilon + 1e-14).all()
    again = NORMS[norm].project(images, projected - images, epsilon)
    torch.testing.assert_close(again, projected, rtol=0, atol=1e-14)


@every_norm
@given(data=st.data(), perturbation=perturbations)
@quick
def test_a_projection_with_an_epsilon_for_each_image_is_that_with_its_own(
    norm: str, data: st.DataObject, perturbation: Tensor
) -> None:
    many = len(perturbation)
    each = data.draw(st.lists(st.just(0.0) | st.floats(1e-6, 9), min_size=many, max_size=many))
    together = NORMS[norm].project_onto_ball(perturbation, torch.tensor(each, dtype=torch.float64))
    for place, epsilon in enumerate(each):
        assert torch.equal(together[place], NORMS[norm].project_onto_ball(perturbation, epsilon)[place])


@every_norm
def test_a_ball_of_radius_zero_is_a_point(norm: str) -> None:
    perturbation = torch.stack([torch.zeros(3, 1, 4), torch.ones(3, 1, 4)])
    nothing = torch.zeros(2, 3, 1, 4)
    assert torch.equal(NORMS[norm].project_onto_ball(perturbation, 0.0), nothing)
    assert torch.equal(NORMS[norm].sample((3, 1, 4), 0.0, [generator(0), generator(1)]), nothing)


# Samples


def draw(norm: str) -> Tensor:
    """2,000 draws in four dimensions, of radius 0.3, in units of it."""
    sources = [generator(7, image) for image in range(2000)]
    return NORMS[norm].sample((2, 1, 2), 0.3, sources).double() / 0.3


def rejected_from_a_box(norm: str) -> Tensor:
    """Points of the same ball: those of its bounding box that are in it."""
    sides = dual_size(norm, torch.eye(4, dtype=torch.float64).view(4, 2, 1, 2)).view(2, 1, 2)
    box = (2 * torch.rand(200_000, 2, 1, 2, generator=generator(8), dtype=torch.float64) - 1) * sides
    return box[NORMS[norm].size(box) <= 1]


@every_norm
def test_samples_are_uniform_in_volume(norm: str) -> None:
    sizes = NORMS[norm].size(draw(norm))
    assert sizes.max() <= 1 + 1e-6  # float32
    # The part of the volume within radius r goes as r^4, in any norm.
    assert stats.kstest(sizes.numpy() ** 4, "uniform").pvalue > 0.01


@every_norm
def test_samples_are_spread_as_points_of_a_box_that_are_in_the_ball(norm: str) -> None:
    found, expected = draw(norm).flatten(1).numpy(), rejected_from_a_box(norm).flatten(1).numpy()
    assert len(expected) > 5000
    # Each coordinate, and directions that tell a sphere from a cube.
    directions = np.vstack([np.eye(4), np.ones((1, 4)), [[1, -1, 0, 0], [0, 0, 1, 1]]])
    smallest = min(stats.ks_2samp(found @ direction, expected @ direction).pvalue for direction in directions)
    assert smallest > 0.01 / len(directions)
    correlations = np.asarray(np.corrcoef(found.T))[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(len(found))  # four standard deviations


@every_norm
def test_each_image_draws_from_its_own_generator(norm: str) -> None:
    together = NORMS[norm].sample((3, 1, 2), 0.3, [generator(0, 4), generator(0, 9)])
    alone = NORMS[norm].sample((3, 1, 2), 0.3, [generator(0, 9)])
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[0], together[1])
