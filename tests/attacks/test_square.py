"""Square against a twin that moves pixel by pixel, and against what it promises."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_bcos.attacks.losses import margin
from robustbench_bcos.attacks.norms import L2, NORMS
from robustbench_bcos.attacks.square import CHUNK, MOVES, Square
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator
from tests.attacks.conftest import TanhNet, Witness, draw_twin
from tests.reference import square as reference

RADII = {"l2": 0.2, "linf": 0.03}
"""Some of the images fall and some resist."""

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
        Square(queries=asked)(witness, one, its_label, NORMS[norm], epsilon, source)
        # The margins of two candidates may differ by less than the last bit of either.
        np.testing.assert_allclose(torch.cat(witness.seen).numpy(), np.stack(expected), rtol=0, atol=1e-9)
        lengths.append(len(expected))
    assert max(lengths) == asked


@every_norm
def test_the_candidate_is_what_fools_or_the_query_of_highest_margin(
    norm: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    verdicts = set()
    for index in range(9):
        witness = Witness(net)
        image, label = images[index, None], labels[index, None]
        source = PerImageRng.of(0, [index])
        found = Square(queries=80, restarts=2)(witness, image, label, NORMS[norm], RADII[norm], source).candidates
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
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    epsilon=st.sampled_from([0.0, 1 / 255, 0.03, 0.5, 2.0]),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=40)
def test_whatever_is_asked_is_an_image_in_the_ball(
    norm: str, shape: tuple[int, int, int], epsilon: float, seed: int, dtype: torch.dtype
) -> None:
    images = torch.rand(5, *shape, generator=generator(seed), dtype=torch.float64).to(dtype)
    witness = Witness(row_by_row)
    labels = row_by_row(images).argmax(dim=1)
    source = PerImageRng.of(seed, range(5))
    candidates = Square(queries=15)(witness, images, labels, NORMS[norm], epsilon, source).candidates
    near = (epsilon + 1e-6) * (1 + 1e-6)  # of the pixels, as float32 stores them
    for asked in [*witness.seen, candidates]:
        assert asked.min() >= 0
        assert asked.max() <= 1
    assert (NORMS[norm].size(candidates - images) <= near).all()
    assert (NORMS[norm].size(witness.seen[0] - images) <= near).all()


@every_norm
@given(size=st.sampled_from([1, 3]), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=6)
def test_batches_change_nothing(norm: str, size: int, seed: int) -> None:
    images = torch.rand(8, 2, 6, 7, generator=generator(seed), dtype=torch.float64)
    labels = row_by_row(images).argmax(dim=1)
    attack, ball, epsilon = Square(queries=60, restarts=2), NORMS[norm], 2 * RADII[norm]
    indices = list(range(40, 48))
    whole = attack(row_by_row, images, labels, ball, epsilon, PerImageRng.of(seed, indices))
    for start in range(0, 8, size):
        part = slice(start, start + size)
        witness = Witness(row_by_row)
        found = attack(witness, images[part], labels[part], ball, epsilon, PerImageRng.of(seed, indices[part]))
        assert torch.equal(found.candidates, whole.candidates[part])
        assert torch.equal(found.trace.forward_passes, whole.trace.forward_passes[part])
        assert found.trace.forward_passes.sum() == sum(len(asked) for asked in witness.seen)


@every_norm
def test_more_queries_only_go_on(norm: str, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    def margins(queries: int) -> Tensor:
        found = Square(queries=queries)(net, images, labels, NORMS[norm], RADII[norm]).candidates
        return margin(net(found).detach(), labels)

    few, some, many = margins(1), margins(30), margins(400)
    fell = some > 0
    assert (few <= some)[~(few > 0)].all()
    assert (some <= many)[~fell].all()
    assert torch.equal(some[fell], many[fell])
    assert (many > 0).sum() > (few > 0).sum()


def test_passes_are_queries_and_none_goes_backward(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    proposal = Square(queries=50, restarts=2)(net, images, labels, NORMS["linf"], 0.02)
    stood = predicted_classes(net(proposal.candidates)) == labels
    assert 0 < stood.sum() < 9
    assert (proposal.trace.forward_passes[stood] == 100).all()
    assert (proposal.trace.forward_passes[~stood] < 100).all()
    assert (proposal.trace.backward_passes == 0).all()
    assert not proposal.trace.degenerate_gradient.any()


@every_norm
def test_a_network_without_gradients_is_searched_as_well(
    norm: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    def stairs(shown: Tensor) -> Tensor:
        logits: Tensor = net((shown * 64).round() / 64)
        return logits.detach()

    epsilon = 2 * RADII[norm]
    labels = predicted_classes(stairs(images))
    found = Square(queries=300)(stairs, images, labels, NORMS[norm], epsilon).candidates
    assert (predicted_classes(stairs(found)) != labels).any()


def test_windows_shrink_after_the_published_queries() -> None:
    attack = Square()
    for move in [*range(300), 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001, 9999]:
        assert attack.share_of(move) == reference.share_of(move)
    assert Square(share=0.4).share_of(11) == 0.2


@every_norm
def test_windows_reach_every_pixel(norm: str) -> None:
    images = torch.full((1, 1, 4, 6), 0.5, dtype=torch.float64)
    witness = Witness(lambda shown: torch.stack([shown.sum((1, 2, 3)) * 0 + 1, shown.sum((1, 2, 3)) * 0], dim=1))
    Square(queries=2000)(witness, images, torch.tensor([0]), NORMS[norm], 0.1)
    begun, *moved = witness.seen
    # Not what is off by a rounding.
    assert ((torch.cat(moved) - begun).abs() > 1e-6).any(dim=0).all()


@pytest.mark.parametrize("arguments", [{"queries": 0}, {"restarts": 0}, {"share": 0.0}, {"share": 1.5}], ids=str)
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Square(**arguments)


def test_a_norm_without_moves_is_refused(
    net: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(L2, "name", "l7")
    with pytest.raises(ValueError, match=r"moves for \(l2, linf\), got l7"):
        Square()(net, images, labels, NORMS["l2"], 0.1)


def test_every_ball_has_moves() -> None:
    assert set(MOVES) == set(NORMS)
