"""Square against a twin that moves pixel by pixel, and against what it promises."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.attacks.searches.square import CHUNK, Square
from robustbench_bcos.core.arrays import LIKE_CHANNELS
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator
from tests.attacks.conftest import TanhNet, Witness, draw_twin
from tests.reference import square as reference

RADII = {"l2": 0.2, "linf": 0.03}
"""Some of the images are broken and some stay robust."""

every_norm = pytest.mark.parametrize("norm", RADII)


def row_by_row(images: Tensor, *, classes: int = 4) -> Tensor:
    """Logits that are the same to the last bit in every batch, unlike those of matrix products."""
    values = images[0].numel()
    weights = torch.randn(classes, values, generator=generator(values), dtype=torch.float64).to(images)
    return torch.stack([(torch.tanh(3 * one.flatten()) * weights).sum(dim=1) for one in images])


def draws_of(index: int, shape: tuple[int, int, int], norm: str, moves: int) -> tuple[Any, Any]:
    """The numbers of an image of seed 0, counted out anew."""
    channels, height, width = shape
    side = max(min(height, width) // 5, 1)
    many = {
        "linf": (channels * width, 2 + channels),
        "l2": ((channels + 1) * (height // side) * (width // side), 5 + channels),
    }
    source = generator(0, index, 0)
    first = torch.rand(1, many[norm][0], generator=source, dtype=torch.float64)[0]
    chunks = [
        torch.rand(CHUNK, many[norm][1], generator=source, dtype=torch.float64) for _ in range(math.ceil(moves / CHUNK))
    ]
    return first.numpy(), torch.cat(chunks)[:moves].numpy()


# Not square, so that rows and columns are told apart; (1, 8, 8) goes on into a second chunk of draws.
@every_norm
@pytest.mark.parametrize(("shape", "asked"), [((3, 5, 4), 70), ((1, 8, 8), CHUNK + 30), ((2, 17, 20), 60)], ids=str)
def test_every_query_is_that_of_the_paper(norm: str, shape: tuple[int, int, int], asked: int) -> None:
    twin = draw_twin(np.random.default_rng(sum(shape)), values=math.prod(shape))
    images = np.random.default_rng(1).integers(-60, 316, size=(4, *shape)).clip(0, 255) / 255
    epsilon = {"l2": 0.015, "linf": 0.003}[norm] * math.sqrt(math.prod(shape)) / 4
    lengths = []
    for index, image in enumerate(images):
        label = int(np.argmax(twin.logits(image)))
        first, moves = draws_of(index, shape, norm, asked - 1)
        expected = reference.queries(twin.logits, image, label, norm=norm, epsilon=epsilon, first=first, moves=moves)
        witness = Witness(TanhNet(twin))
        source = PerImageRng.of(0, [index])
        one, its_label = torch.from_numpy(image)[None], torch.tensor([label])
        Square(queries=asked)(witness, one, its_label, norm, epsilon, rng=source)
        # The margins of two queries may differ by less than the last bit of either.
        np.testing.assert_allclose(torch.cat(witness.seen).numpy(), np.stack(expected), rtol=0, atol=1e-9)
        lengths.append(len(expected))
    assert max(lengths) == asked


@every_norm
def test_the_first_success_or_the_query_of_highest_margin_is_returned(
    norm: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    verdicts = set()
    for index in range(9):
        witness = Witness(net)
        image, label = images[index, None], labels[index, None]
        source = PerImageRng.of(0, [index])
        found = Square(queries=80, restarts=2)(witness, image, label, norm, RADII[norm], rng=source).adversarials
        asked = torch.cat(witness.seen)
        logits = net(asked).detach()
        margins = margin(logits, label.expand(len(asked)))
        wrong = predicted_classes(logits) != label
        assert not wrong[:-1].any()
        expected = asked[-1] if wrong[-1] else asked[margins.argmax()]
        assert torch.equal(found[0], expected)
        verdicts.add(bool(wrong[-1]))
        assert len(asked) == 160 or wrong[-1]
    assert verdicts == {True, False}


@every_norm
@given(
    shape=st.tuples(st.sampled_from(LIKE_CHANNELS), st.integers(1, 9), st.integers(1, 9)),
    epsilon=st.sampled_from([0.0, 1 / 255, 0.03, 0.5, 2.0]),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=40)
def test_every_query_is_an_image_in_the_ball(
    norm: str, shape: tuple[int, int, int], epsilon: float, seed: int, dtype: torch.dtype
) -> None:
    images = torch.rand(5, *shape, generator=generator(seed), dtype=torch.float64).to(dtype)
    witness = Witness(row_by_row)
    labels = row_by_row(images).argmax(dim=1)
    source = PerImageRng.of(seed, range(5))
    adversarials = Square(queries=15)(witness, images, labels, norm, epsilon, rng=source).adversarials
    near = (epsilon + 1e-6) * (1 + 1e-6)  # of the pixels, as float32 stores them
    for asked in [*witness.seen, adversarials]:
        assert asked.min() >= 0
        assert asked.max() <= 1
    assert (NORMS[norm].size(adversarials - images) <= near).all()
    assert (NORMS[norm].size(witness.seen[0] - images) <= near).all()


@every_norm
def test_more_queries_only_go_on(norm: str, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    def margins(queries: int) -> Tensor:
        found = Square(queries=queries)(net, images, labels, norm, RADII[norm]).adversarials
        return margin(net(found).detach(), labels)

    few, some, many = margins(1), margins(30), margins(400)
    found_early = some > 0
    assert (few <= some)[~(few > 0)].all()
    assert (some <= many)[~found_early].all()
    assert torch.equal(some[found_early], many[found_early])
    assert (many > 0).sum() > (few > 0).sum()


@every_norm
def test_a_network_without_gradients_is_searched_as_well(
    norm: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    def stairs(shown: Tensor) -> Tensor:
        logits: Tensor = net((shown * 64).round() / 64)
        return logits.detach()

    epsilon = 2 * RADII[norm]
    labels = predicted_classes(stairs(images))
    found = Square(queries=300)(stairs, images, labels, norm, epsilon).adversarials
    assert (predicted_classes(stairs(found)) != labels).any()


def test_windows_shrink_after_the_published_queries() -> None:
    attack = Square()
    for move in [*range(300), 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001, 9999]:
        assert attack.share_of(move) == reference.share_of(move)
    assert Square(p_init=0.4).share_of(11) == 0.2


@every_norm
def test_windows_reach_every_pixel(norm: str) -> None:
    images = torch.full((1, 1, 4, 6), 0.5, dtype=torch.float64)
    witness = Witness(lambda shown: torch.stack([shown.sum((1, 2, 3)) * 0 + 1, shown.sum((1, 2, 3)) * 0], dim=1))
    Square(queries=2000)(witness, images, torch.tensor([0]), norm, 0.1)
    begun, *moved = witness.seen
    # Not what is off by a rounding.
    assert ((torch.cat(moved) - begun).abs() > 1e-6).any(dim=0).all()


@pytest.mark.parametrize("p_init", [0.0, 1.5])
def test_windows_of_no_pixels_or_more_than_all_are_refused(p_init: float) -> None:
    with pytest.raises(ValueError, match=r"expected a p_init above 0 and up to 1"):
        Square(p_init=p_init)
