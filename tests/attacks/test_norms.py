"""What every ball promises, stated once and checked for each that is registered."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.core.rng import generator

ORDER = {"l2": 2, "linf": np.inf}
DUAL_ORDER = {"l2": 2, "linf": 1}

# Multiples of 1e-6: none so small that its square is 0, so that what lies inside is returned to the last bit.
entries = st.integers(-2_000_000, 2_000_000).map(lambda millionths: millionths / 1e6)
shapes = arrays.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=4)
deltas = arrays.arrays(np.float64, shapes, elements=entries).map(torch.from_numpy)
radii = st.floats(1e-3, 3)

every_ball = pytest.mark.parametrize("norm", NORMS)
quick = settings(max_examples=40, deadline=None)


def norms(delta: Tensor, order: float) -> NDArray[np.float64]:
    return np.array([np.linalg.norm(one.numpy().ravel(), ord=order) for one in delta])


def inner(left: Tensor, right: Tensor) -> NDArray[np.float64]:
    return (left * right).flatten(1).sum(dim=1).numpy()


@every_ball
def test_a_ball_is_registered_under_its_own_name(norm: str) -> None:
    assert NORMS[norm].name == repr(NORMS[norm]) == norm


@every_ball
@given(delta=deltas)
@quick
def test_size_is_the_norm(norm: str, delta: Tensor) -> None:
    np.testing.assert_allclose(NORMS[norm].size(delta).numpy(), norms(delta, ORDER[norm]), rtol=1e-14)


@every_ball
@given(delta=deltas, epsilon=radii)
@quick
def test_projection_lands_in_the_ball_and_stays(norm: str, delta: Tensor, epsilon: float) -> None:
    once = NORMS[norm].project(delta, epsilon)
    assert (norms(once, ORDER[norm]) <= epsilon * (1 + 1e-14)).all()  # one rounding of the length
    torch.testing.assert_close(NORMS[norm].project(once, epsilon), once, rtol=1e-14, atol=0)


@every_ball
@given(delta=deltas, slack=st.floats(1.001, 5))
@quick
def test_projection_leaves_alone_what_is_inside(norm: str, delta: Tensor, slack: float) -> None:
    epsilon = slack * max(float(norms(delta, ORDER[norm]).max()), 1e-3)
    assert torch.equal(NORMS[norm].project(delta, epsilon), delta)


@every_ball
@given(delta=deltas, epsilon=radii)
@quick
def test_projection_is_the_nearest_point(norm: str, delta: Tensor, epsilon: float) -> None:
    # p is nearest in a convex set iff no q in it has <delta - p, q - p> > 0; the most any q of the ball
    # reaches is epsilon times the dual norm of delta - p.
    projected = NORMS[norm].project(delta, epsilon)
    rest = delta - projected
    reach = epsilon * norms(rest, DUAL_ORDER[norm]) - inner(rest, projected)
    np.testing.assert_allclose(reach, 0, atol=1e-12)  # sums of up to 64 products of size up to 4


def test_l2_projection_is_what_a_constrained_minimiser_finds() -> None:
    delta = np.random.default_rng(3).normal(size=(2, 3, 1))
    found = optimize.minimize(
        lambda point: np.sum((point - delta.ravel()) ** 2),
        np.full(delta.size, 0.1),
        jac=lambda point: 2 * (point - delta.ravel()),
        constraints=[{"type": "ineq", "fun": lambda point: 0.7**2 - np.sum(point**2)}],
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    projected = NORMS["l2"].project(torch.from_numpy(delta)[None], 0.7)
    np.testing.assert_allclose(projected.numpy().ravel(), found.x, atol=1e-6)  # the minimiser's own accuracy


@every_ball
@given(data=st.data(), delta=deltas, epsilon=radii)
@quick
def test_clipping_pixels_never_leaves_the_ball(norm: str, data: st.DataObject, delta: Tensor, epsilon: float) -> None:
    images = torch.from_numpy(data.draw(arrays.arrays(np.float64, delta.shape, elements=st.floats(0, 1))))
    clipped = (images + NORMS[norm].project(delta, epsilon)).clamp(0, 1)
    # Each of at most 64 sums of a pixel and its delta is rounded by 2^-53.
    assert (norms(clipped - images, ORDER[norm]) <= epsilon + 1e-14).all()


@every_ball
@given(data=st.data(), delta=deltas)
@quick
def test_a_projection_with_an_epsilon_for_each_image_is_that_with_its_own(
    norm: str, data: st.DataObject, delta: Tensor
) -> None:
    radii = data.draw(st.lists(st.just(0.0) | st.floats(1e-6, 9), min_size=len(delta), max_size=len(delta)))
    together = NORMS[norm].project(delta, torch.tensor(radii, dtype=torch.float64))
    for place, radius in enumerate(radii):
        assert torch.equal(together[place], NORMS[norm].project(delta, radius)[place])


@every_ball
@given(gradient=deltas)
@quick
def test_ascent_has_size_one_and_gains_the_dual_norm(norm: str, gradient: Tensor) -> None:
    steepest = NORMS[norm].ascend(gradient)
    expected = norms(gradient, DUAL_ORDER[norm])
    np.testing.assert_allclose(norms(steepest, ORDER[norm]), expected > 0, rtol=1e-14)
    np.testing.assert_allclose(inner(gradient, steepest), expected, rtol=1e-13)


@every_ball
@pytest.mark.parametrize("scale", [1e-30, 1e30])
@given(gradient=deltas)
@quick
def test_ascent_does_not_depend_on_the_gradients_scale(norm: str, scale: float, gradient: Tensor) -> None:
    # In float32 the squares of such entries would underflow and overflow.
    direction = NORMS[norm].ascend(gradient.float())
    rescaled = NORMS[norm].ascend(gradient.float() * scale)
    torch.testing.assert_close(rescaled, direction, rtol=1e-6, atol=1e-6)  # the product is rounded


@every_ball
def test_a_zero_gradient_stays_put_and_its_neighbour_does_not_care(norm: str) -> None:
    gradients = torch.zeros(2, 3, 1, 4)
    gradients[1, 2, 0, 3] = -5.0
    steepest = NORMS[norm].ascend(gradients)
    assert torch.equal(steepest, gradients / 5)


@every_ball
def test_a_ball_of_radius_zero_is_a_point(norm: str) -> None:
    ball = NORMS[norm]
    delta = torch.stack([torch.zeros(3, 1, 4), torch.ones(3, 1, 4)])
    assert torch.equal(ball.project(delta, 0.0), torch.zeros(2, 3, 1, 4))
    assert torch.equal(ball.sample((3, 1, 4), 0.0, [generator(0), generator(1)]), torch.zeros(2, 3, 1, 4))


@every_ball
def test_samples_are_uniform_in_volume(norm: str) -> None:
    sizes = NORMS[norm].size(draw(norm, epsilon=0.3)).double() / 0.3
    assert sizes.max() <= 1 + 1e-6  # float32
    # The part of the volume within radius r goes as r^6, in any norm.
    assert stats.kstest(sizes.numpy() ** 6, "uniform").pvalue > 0.01


@every_ball
def test_samples_favour_no_coordinate(norm: str) -> None:
    # A coordinate t of a uniform point of the 2-ball in d dimensions has density ~ (1 - t^2)^((d - 1) / 2).
    marginal = {"linf": stats.uniform(-1, 2), "l2": stats.beta(3.5, 3.5, loc=-1, scale=2)}[norm]
    coordinates = draw(norm, epsilon=0.3).flatten(1).double().numpy() / 0.3
    smallest = min(stats.kstest(coordinates[:, axis], marginal.cdf).pvalue for axis in range(6))
    assert smallest > 0.01 / 6  # six tests
    fourth = (coordinates**4).mean(axis=1)  # tells directions of a sphere from those of a cube
    assert abs(fourth.mean() - marginal.moment(4)) < 4 * fourth.std() / math.sqrt(len(fourth))
    correlations = np.asarray(np.corrcoef(coordinates.T))[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(len(coordinates))  # four standard deviations


@every_ball
def test_each_image_draws_from_its_own_generator(norm: str) -> None:
    together = NORMS[norm].sample((3, 1, 2), 0.3, [generator(0, 4), generator(0, 9)])
    alone = NORMS[norm].sample((3, 1, 2), 0.3, [generator(0, 9)])
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[0], together[1])


@every_ball
def test_diameter_is_the_distance_from_black_to_white(norm: str) -> None:
    corner_to_corner = NORMS[norm].size(torch.ones(1, 3, 5, 4, dtype=torch.float64))
    assert NORMS[norm].diameter((3, 5, 4)) == pytest.approx(float(corner_to_corner), rel=1e-14)


def draw(norm: str, *, epsilon: float) -> Tensor:
    """600 draws in six dimensions."""
    return NORMS[norm].sample((3, 1, 2), epsilon, [generator(7, image) for image in range(600)])
