"""Certificates of smoothed networks: against closed forms, and against float64 twins that draw for themselves."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.certificates.certificate import BLOCK, Certified, Smoothed
from robustbench_bcos.certificates.smoothed.smoothing import SELECTION
from robustbench_bcos.certificates.smoothed.sparsified_maps import radii_of
from robustbench_bcos.core.prediction import NO_CLASS
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.model_zoo.classifier import freeze
from tests.bench.own_request import SHAPE, TwoSides

SIGMA, ALPHA = 0.3, 0.01
RNG = PerImageRng.of(0, [7])

every_certificate = pytest.mark.parametrize("name", CERTIFICATES)


def linear(normal: np.ndarray, image: Tensor, margin: float) -> nn.Module:
    """A network whose plane is so far from the image that the label's share of the noise is Phi(margin / sigma)."""
    offset = margin * float(np.linalg.norm(normal)) - float(image.double().flatten() @ torch.from_numpy(normal))
    return freeze(nn.Sequential(TwoSides(normal, offset)))


def a_plane(seed: int, margin: float) -> tuple[nn.Module, np.ndarray, Tensor]:
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.uniform(size=(1, *SHAPE))).float()
    normal = random.normal(size=math.prod(SHAPE))
    return linear(normal, image, margin), normal, image


def smoothed(network: nn.Module, draws: int = 300, sigma: float = SIGMA, batch_size: int = BLOCK) -> Smoothed:
    return Smoothed(classifier=network, sigma=sigma, draws=draws, alpha=ALPHA, batch_size=batch_size)


def smoothing(of: Smoothed, image: Tensor, rng: PerImageRng = RNG) -> Certified:
    return CERTIFICATES["smoothing"].certify(of, image, 1, rng)


@pytest.mark.parametrize(("name", "pixels"), [("smoothing", 60), ("sparsified_maps", 20)])
def test_the_largest_radius_is_that_of_a_network_whose_answers_no_noise_changes(name: str, pixels: int) -> None:
    of = smoothed(linear(np.eye(1, math.prod(SHAPE))[0], torch.zeros(1, *SHAPE), 1e3))
    if name == "smoothing":
        (radius,) = smoothing(of, torch.zeros(1, *SHAPE)).radii
    else:
        radius = radii_of([300] * 2 + [0] * 18, 2, of)[0]
    assert radius is not None
    assert SIGMA * CERTIFICATES[name].largest(300, ALPHA, pixels) == pytest.approx(radius, rel=1e-3)


# The prediction of the smoothed classifier


@pytest.mark.parametrize("margin", [0.1, 0.3, 0.5])
def test_the_smoothed_classifier_of_a_plane_is_certified_to_the_plane_and_not_beyond(margin: float) -> None:
    network, _, image = a_plane(3, margin)
    found = smoothing(smoothed(network, draws=4000), image)
    (radius,) = found.radii
    assert found.prediction == 1
    assert radius is not None
    # Its probability is Phi(margin / sigma) exactly, of which the sample's bound is five deviations below at most.
    share = stats.norm.cdf(margin / SIGMA)
    low = share - 5 * math.sqrt(share * (1 - share) / 4000)
    assert SIGMA * stats.norm.ppf(low) <= radius < margin


@pytest.mark.parametrize("batch_size", [BLOCK, 7])
def test_class_and_radius_are_those_of_a_twin_that_draws_the_same_noise_in_float64(batch_size: int) -> None:
    network, normal, image = a_plane(4, 0.2)
    draws = 250
    votes = {}
    for stream, count in (("selection", SELECTION), ("estimation", draws)):
        (generator,) = RNG.fold_in(stream).fold_in("noise")(0)
        sizes = [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
        blocks = [torch.randn(size, *SHAPE, generator=generator) for size in sizes]
        noisy = image.double().numpy() + SIGMA * torch.cat(blocks).double().numpy()
        sides = noisy.reshape(count, -1) @ normal + network[0].offset  # type: ignore[index]
        votes[stream] = int((sides > 0).sum())
    assert SELECTION / 2 < votes["selection"] < SELECTION
    # Clopper and Pearson's one-sided bound is a quantile of a beta distribution.
    low = stats.beta.ppf(ALPHA, votes["estimation"], draws - votes["estimation"] + 1)
    (radius,) = smoothing(smoothed(network, draws, batch_size=batch_size), image).radii
    assert radius == pytest.approx(SIGMA * stats.norm.ppf(low), rel=2e-5)
    assert radius <= SIGMA * stats.norm.ppf(low)


class Silent(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.new_full((len(images), 2), torch.nan)


def test_it_abstains_where_classes_are_equally_likely_or_there_is_none() -> None:
    network, _, image = a_plane(5, 0.0)
    assert smoothing(smoothed(network), image) == Certified((None,), NO_CLASS)
    assert smoothing(smoothed(Silent()), image) == Certified((None,), NO_CLASS)


def test_no_radius_is_beyond_what_so_many_draws_can_say() -> None:
    network, _, image = a_plane(6, 50.0)
    (radius,) = smoothing(smoothed(network, draws=200), image).radii
    assert radius == pytest.approx(SIGMA * stats.norm.ppf(ALPHA ** (1 / 200)), rel=2e-5)


# Largest contributions of the smoothed map


def test_of_two_pixels_the_larger_one_is_certified_to_where_both_are_equal_and_not_beyond() -> None:
    # Contributions are normal, so that the larger one leads with probability Phi(lead / (sigma * length)).
    weights = torch.tensor([[0.6, -0.4], [1.0, 0.5], [0.2, 0.9]])
    image = torch.tensor([[[0.9, 0.2]], [[0.8, 0.4]], [[0.3, 0.1]]])[None]
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False))
    network[1].weight.data = torch.stack([torch.zeros(6), weights.flatten()])
    lead = (weights * image[0, :, 0]).sum(dim=0) @ torch.tensor([1.0, -1.0])
    distance = float(lead / torch.linalg.vector_norm(weights))
    (radius,) = CERTIFICATES["sparsified_maps"].certify(smoothed(freeze(network), 3000, 1.0), image, 1, RNG).radii
    assert radius is not None
    share = stats.norm.cdf(distance)
    low = share - 5 * math.sqrt(share * (1 - share) / 3000)
    assert stats.norm.ppf(low) <= radius < distance


@pytest.mark.parametrize("seed", range(3))
def test_so_many_pixels_stay_as_the_worst_map_within_the_radius_has_in_common(seed: int) -> None:
    random = np.random.default_rng(seed)
    draws, pixels, kept = 400, 20, 6
    counts = (draws * random.beta(0.5, 1.0, size=pixels)).round().astype(int).tolist()
    radii = radii_of(counts, kept, smoothed(Silent(), draws))
    tail = ALPHA / pixels / 2
    lows = [stats.beta.ppf(tail, count, draws - count + 1) if count else 0.0 for count in counts]
    highs = [stats.beta.ppf(1 - tail, count + 1, draws - count) if count < draws else 1.0 for count in counts]
    top = np.argsort(-np.array(counts), kind="stable")[:kept]
    assert sum(radius > 0 for radius in radii) > 1
    for radius in np.linspace(0, 1.37 * max(radii), 40):
        worst = stats.norm.ppf(highs) + radius / SIGMA
        worst[top] = stats.norm.ppf(np.array(lows)[top]) - radius / SIGMA
        common = len(set(np.argsort(-worst, kind="stable")[:kept]) & set(top))
        assert sum(one > radius for one in radii) == common


# All of them


@every_certificate
def test_draws_belong_to_the_image(name: str) -> None:
    _, normal, image = a_plane(8, 0.2)
    rows = torch.from_numpy(np.stack([-normal, normal])).float()
    network = nn.Sequential(nn.Flatten(), nn.Linear(normal.size, 2))
    network[1].weight.data = rows
    network[1].bias.data = torch.tensor([-1.0, 1.0]) * (1.0 - rows[1] @ image.flatten())
    network = freeze(network)
    certify = CERTIFICATES[name].certify
    first = certify(smoothed(network), image, 1, RNG)
    assert first == certify(smoothed(network, batch_size=13), image, 1, RNG)
    assert first != certify(smoothed(network), image, 1, PerImageRng.of(0, [8]))
    assert first != certify(smoothed(network), image, 1, PerImageRng.of(1, [7]))
