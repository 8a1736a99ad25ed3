"""What is special in l1: pixel box and ball are projected onto together, and steps move few pixels."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import optimize, stats
from torch import Tensor

from robustbench_bcos.attacks import ATTACKS, NORMS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.fab import torchattacks_available
from robustbench_bcos.attacks.searches.square import MOVES
from robustbench_bcos.core.rng import PerImageRng, generator
from tests.attacks.conftest import Network, TanhNet, Witness
from tests.reference import l1 as reference
from tests.reference.pgd import TwoLayers

L1 = NORMS["l1"]
EPSILON = 1.5

# Multiples of 1e-6, so that the reference's bisection resolves them.
shapes = arrays.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=4)
pixels = st.integers(0, 1_000_000).map(lambda millionths: millionths / 1e6)
changes = st.integers(-2_000_000, 2_000_000).map(lambda millionths: millionths / 1e6)
quick = settings(max_examples=60, deadline=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Images, deltas, and an epsilon for each."""
    shape = draw(shapes)
    images, deltas = (draw(arrays.arrays(np.float64, shape, elements=each)) for each in (pixels, changes))
    epsilons = draw(st.lists(st.just(0.0) | st.floats(1e-3, 9), min_size=shape[0], max_size=shape[0]))
    return torch.from_numpy(images), torch.from_numpy(deltas), torch.tensor(epsilons, dtype=torch.float64)


@given(problem=problems())
@quick
def test_projection_is_what_bisection_finds(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    together = L1.project(*problem)
    for found, image, delta, epsilon in zip(together, *problem, strict=True):
        expected = image + torch.from_numpy(reference.nearest(image.numpy(), delta.numpy(), float(epsilon)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)  # sums of up to 64 changes
        assert torch.equal(found, L1.project(image[None], delta[None], float(epsilon))[0])


@given(problem=problems())
@quick
def test_projection_is_allowed_and_nearest_and_stays(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    images, deltas, epsilons = problem
    projected = L1.project(*problem)
    assert ((projected >= 0) & (projected <= 1)).all()
    assert (L1.size(projected - images) <= epsilons * (1 + 1e-14)).all()
    torch.testing.assert_close(L1.project(images, projected - images, epsilons), projected, rtol=0, atol=1e-15)
    # Nearest in a convex set iff nothing in it lies further along what is left of the way.
    for image, found, left, epsilon in zip(
        images, projected - images, images + deltas - projected, epsilons, strict=True
    ):
        furthest = reference.best_linear(image.numpy(), left.numpy(), float(epsilon))
        assert float((left * (torch.from_numpy(furthest) - found)).sum()) < 1e-12  # 64 products of size up to 4


def test_projection_is_what_a_constrained_minimiser_finds() -> None:
    random = np.random.default_rng(3)
    image, delta, epsilon = random.uniform(size=6), random.normal(size=6), 0.9
    # Changes up and changes down as variables of their own make all constraints smooth.
    found = optimize.minimize(
        lambda parts: np.sum((parts[:6] - parts[6:] - delta) ** 2),
        np.full(12, 0.01),
        bounds=[*((0, 1 - pixel) for pixel in image), *((0, pixel) for pixel in image)],
        constraints=[{"type": "ineq", "fun": lambda parts: epsilon - np.sum(parts)}],
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    shape = (1, 3, 2, 1)
    projected = L1.project(*(torch.from_numpy(values).view(shape) for values in (image, delta)), epsilon)
    expected = image + found.x[:6] - found.x[6:]
    np.testing.assert_allclose(projected.numpy().ravel(), expected, atol=1e-6)  # the minimiser's own accuracy


@pytest.mark.parametrize(("side", "epsilon", "spread"), [(32, 12.0, 0.001), (32, 12.0, 3.0), (224, 60.0, 0.1)])
def test_storing_pixels_does_not_leave_the_ball(side: int, epsilon: float, spread: float) -> None:
    source = generator(5)
    images = torch.rand(4, 3, side, side, generator=source)
    deltas = spread * torch.randn(4, 3, side, side, generator=source)
    # Where all pixels are equal, so are the roundings, and none makes up for another.
    images[1:] = torch.tensor([0.1, 0.3, 0.7])[:, None, None, None]
    deltas[1:] = spread
    once = L1.project(images, deltas, epsilon)
    again = L1.project(images, once - images, epsilon)
    for projected in (once, again):
        assert projected.dtype == images.dtype
        assert ((projected >= 0) & (projected <= 1)).all()
        # The judge allows 1e-6, and half a unit of each pixel besides.
        sizes = L1.size(projected.double() - images.double())
        assert (sizes <= epsilon * (1 + 5e-7)).all()
    torch.testing.assert_close(again, once, rtol=0, atol=2**-24)  # a delta in float32
    wanted = L1.project(images.double(), deltas.double(), epsilon)
    torch.testing.assert_close(once.double(), wanted, rtol=0, atol=2**-24)


def test_the_steepest_pixel_is_one_that_can_move() -> None:
    gradients = torch.tensor([[5.0, -4.0, 3.0, -3.0], [1.0, 0.0, 0.0, 0.0]])[:, None, None]
    iterates = torch.tensor([[1.0, 0.0, 0.9, 0.5], [1.0, 1.0, 0.0, 0.5]])[:, None, None]
    expected = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])[:, None, None]
    assert torch.equal(L1.steepest_ascent(gradients, iterates), expected)


def test_samples_are_uniform() -> None:
    draws = L1.sample((3, 1, 2), 0.3, [generator(7, image) for image in range(600)]).flatten(1).double() / 0.3
    # The part of the volume within radius r goes as r^6; of a coordinate, the part within r of 0 as 1 - (1 - r)^6.
    sizes = draws.abs().sum(dim=1).numpy()
    assert stats.kstest(sizes**6, "uniform").pvalue > 0.01
    smallest = min(stats.kstest(axis.abs().numpy(), stats.beta(1, 6).cdf).pvalue for axis in draws.T)
    assert smallest > 0.01 / 6  # six tests
    assert ((draws > 0).double().mean(dim=0) - 0.5).abs().max() < 4 * 0.5 / 600**0.5  # four standard deviations


@pytest.mark.parametrize(
    ("attack", "reached"),
    [
        (ATTACKS["pgd"](steps=100, loss="margin", select="best_loss"), 0.98),
        (ATTACKS["apgd"](steps=100, loss="margin", select="best_loss"), 0.98),
        (ATTACKS["noise"](), 0.0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_on_a_linear_model_an_attack_comes_near_to_the_best_and_never_beyond(
    attack: AbstractAttack, reached: float, images: Tensor
) -> None:
    weights = torch.from_numpy(np.random.default_rng(5).normal(size=images[0].numel()))

    def linear(images: Tensor) -> Tensor:
        # The label's logit stays above, so that nothing is a success.
        other = images.flatten(1) @ weights
        return torch.stack([torch.full_like(other, 1e3), other], dim=1)

    found = attack(linear, images, torch.zeros(len(images), dtype=torch.long), "l1", EPSILON).adversarials
    gains = (found - images).flatten(1) @ weights
    slope = weights.view(images.shape[1:]).numpy()
    best = torch.tensor(
        [float((reference.best_linear(image.numpy(), slope, EPSILON) * slope).sum()) for image in images],
        dtype=torch.float64,
    )
    assert (gains <= best * (1 + 1e-12)).all()
    if reached:
        assert (gains >= reached * best).all(), (gains / best).min()


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("steps", [10, 75])
def test_apgd_is_the_published_algorithm(
    steps: int, loss: str, net: TanhNet, twin: TwoLayers, images: Tensor, labels: Tensor
) -> None:
    witness = Witness(net)
    attack = ATTACKS["apgd"](steps=steps, loss=loss, select="last")
    attack(witness, images, labels, "l1", EPSILON)
    for number, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        path = [seen[number].numpy() for seen in witness.seen]
        expected = reference.apgd(twin, image, label, path, epsilon=EPSILON, loss=loss)
        np.testing.assert_allclose(path[1:], expected, atol=1e-12)


def test_apgd_starts_from_noise_that_is_projected(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    witness, rng = Witness(net), PerImageRng.of(3, range(len(images)))
    ATTACKS["apgd"](steps=1)(witness, images, labels, "l1", EPSILON, rng=rng)
    noise = torch.stack([torch.randn(images.shape[1:], generator=source) for source in rng(0)]).double()
    assert torch.equal(witness.seen[0], L1.project(images, noise, EPSILON))


# Not square, so that rows and columns are told apart.
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 8, 8), (2, 17, 20)], ids=str)
@pytest.mark.parametrize("share", [0.8, 0.1])
def test_squares_moves_are_those_of_the_published_code(shape: tuple[int, int, int], share: float) -> None:
    moves = MOVES["l1"]
    of_start, of_move = (
        torch.rand(4, number, generator=generator(number), dtype=torch.float64)
        for number in moves.draws(torch.Size(shape))
    )
    starts = moves.begin(torch.Size(shape), EPSILON, of_start)
    perturbations = L1.project(torch.full_like(starts, 0.4), starts, EPSILON / 2) - 0.4
    found = moves.move(perturbations, EPSILON, share, of_move)
    shorter = min(shape[1:])
    side = min(max(round((share * shape[1] * shape[2]) ** 0.5), 3) | 1, shorter if shorter % 2 else shorter - 1)
    for image in range(4):
        start = reference.square_start(shape, of_start[image].tolist())
        np.testing.assert_allclose(starts[image], start, atol=1e-14)
        moved = reference.square_move(perturbations[image].numpy(), EPSILON, side, of_move[image].tolist())
        np.testing.assert_allclose(found[image], moved, atol=1e-14)


KINDS: dict[str, AbstractAttack] = {
    "pgd": ATTACKS["pgd"](start="random", restarts=2),
    "apgd": ATTACKS["apgd"](steps=30, restarts=2),
    "apgd_targeted": ATTACKS["apgd_targeted"](steps=10, targets=3),
    "square": ATTACKS["square"](queries=120),
    "noise": ATTACKS["noise"](restarts=3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_stays_within_the_threat_and_does_not_depend_on_the_batch(
    kind: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    run = partial(KINDS[kind], net, images, labels, "l1", EPSILON / 3)
    together = run().adversarials
    assert ((together >= 0) & (together <= 1)).all()
    assert (L1.size(together - images) <= EPSILON / 3 * (1 + 1e-14)).all()
    for batch_size in (1, 4):
        torch.testing.assert_close(run(batch_size=batch_size).adversarials, together, rtol=0, atol=1e-12)


def test_attacks_that_search_break_more_than_noise(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    losses: dict[str, Any] = {}
    for kind in ("noise", "square", "pgd", "apgd"):
        found = KINDS[kind](net, images, labels, "l1", EPSILON).adversarials
        losses[kind] = broken(net, found, labels)
    assert losses["noise"] < losses["square"] <= losses["apgd"]
    assert losses["pgd"] <= losses["apgd"]


@pytest.mark.skipif(not torchattacks_available(), reason="torchattacks is not installed")
def test_fab_knows_l1(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    network = net.float()
    found = ATTACKS["fab"](steps=20, targets=6)(network, images.float(), labels, "l1", EPSILON).adversarials
    assert (L1.size(found.double() - images.float().double()) <= EPSILON * (1 + 5e-7)).all()
    assert broken(network, found, labels) > broken(network, images.float(), labels)


def broken(network: Network, images: Tensor, labels: Tensor) -> int:
    return int((network(images).argmax(dim=1) != labels).sum())
