"""Indicators of attack failure: those of the paper, worked out again in plain NumPy on the path that was recorded."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_bcos.attacks import ATTACKS, LOSSES
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.attacks.driver import GradientAttack
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.evidence import contexts
from robustbench_bcos.bench.evidence.indicators import DRAWS, LAST, SPREAD, Path, instability
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.rng import PerImageRng
from tests.attacks.conftest import TanhNet, draw_twin
from tests.bench.evidence.one_check import outcome, results
from tests.bench.own_request import own_request
from tests.reference import pgd as reference
from tests.reference.losses import VALUES

SOURCE = PerImageRng.of(5, (41, 7, 12, 300))
RADII = {"l2": 0.2, "linf": 0.03}

every_norm = pytest.mark.parametrize("norm", RADII)
every_loss = pytest.mark.parametrize("loss", LOSSES)


@pytest.fixture
def problem() -> tuple[TanhNet, Tensor, Tensor]:
    """A network, four images in float64 and their labels."""
    net = TanhNet(draw_twin(np.random.default_rng(1), values=3 * 5 * 4))
    images = torch.from_numpy(np.random.default_rng(2).uniform(size=(4, 3, 5, 4)))
    return net, images, net(images).argmax(dim=1)


def path_of(logits: NDArray[np.float64], labels: list[int], criterion: str = "misclassified") -> Path:
    return Path(
        logits=torch.from_numpy(logits),
        goals=torch.tensor(labels),
        criterion=make_criterion(criterion),
        adversarials=torch.zeros(len(labels), 3, 1, 1),
        passes=2 * len(logits) - 1,
    )


def walked(attack: GradientAttack, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat) -> Path:
    """The path of an attack, on a model that is its own fast copy."""
    judged = make_criterion("misclassified")
    target = AttackTarget(
        classifier=net,
        attack_model=net,
        images=images,
        labels=labels,
        goals=judged.goals(net, images, labels),
        threat=threat,
        criterion=judged,
        rng=SOURCE,
    )
    return Path.of(attack, target)


class Witness(nn.Module):
    """A network that remembers what it was shown."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return self.network(images)


# Recording


@every_norm
def test_a_path_has_the_logits_of_every_iterate_of_pgd(norm: str, problem: tuple[TanhNet, Tensor, Tensor]) -> None:
    net, images, labels = problem
    twin = draw_twin(np.random.default_rng(1), values=3 * 5 * 4)
    attack = PGD(steps=7, step_size=0.3 * RADII[norm], loss="margin", restarts=3)
    path = walked(attack, net, images, labels, Threat.of(norm, RADII[norm]))
    assert path.logits.shape == (8, 4, 7)
    assert path.passes == 7 + 8
    for place, label in enumerate(labels.tolist()):
        iterates = reference.iterates(
            twin, images[place].numpy(), label, norm=norm, epsilon=RADII[norm], step_size=0.3 * RADII[norm], steps=7,
            loss="margin",
        )  # fmt: skip
        expected = np.stack([twin.logits(iterate) for iterate in iterates])
        np.testing.assert_allclose(path.logits[:, place].numpy(), expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(path.adversarials[place].numpy(), iterates[-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "attack", [PGD(steps=5, start="random", restarts=2), APGD(steps=5, restarts=2)], ids=["pgd", "apgd"]
)
def test_no_image_leaves_a_path_and_one_restart_is_recorded(
    attack: PGD | APGD, problem: tuple[TanhNet, Tensor, Tensor]
) -> None:
    net, images, labels = problem
    labels = (labels + torch.tensor([0, 1, 0, 1])) % 7
    witness = Witness(net)
    path = walked(attack, witness, images, labels, Threat.of("l2", 3.0))
    assert [len(shown) for shown in witness.seen] == [4] * 6
    assert torch.equal(path.logits, torch.stack([net(shown) for shown in witness.seen]))
    assert torch.equal(net(path.adversarials), path.logits[-1])
    assert torch.equal(path.goals, labels)
    assert not path.logits.requires_grad


def test_only_searches_with_a_single_path_are_read() -> None:
    assert {name for name in ATTACKS if ATTACKS[name].has_path} == {"pgd", "apgd"}


# Silent success


def silent_twin(logits: NDArray[np.float64], label: int) -> bool:
    before = False
    for row in logits[:-1]:
        before = before or not np.isfinite(row).all() or int(np.argmax(row)) != label
    last = logits[-1]
    return before and bool(np.isfinite(last).all()) and int(np.argmax(last)) == label


three_classes = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 14), st.integers(1, 3), st.just(3)),
    elements=st.sampled_from([-2.0, 0.5, 1.0, 3.0, np.inf, np.nan]),
)


@given(logits=three_classes, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_silent_success_is_wrong_on_the_way_and_right_at_the_end(
    logits: NDArray[np.float64], data: st.DataObject
) -> None:
    labels = [data.draw(st.integers(0, 2)) for _ in range(logits.shape[1])]
    found = path_of(logits, labels).silent().tolist()
    assert found == [silent_twin(logits[:, place], label) for place, label in enumerate(labels)]


def test_only_what_the_criterion_asks_for_is_a_success() -> None:
    first, second, third = np.eye(3)
    logits = np.stack([[first, first], [second, third], [first, first]])
    assert path_of(logits, [0, 0]).silent().tolist() == [True, True]
    assert path_of(logits, [1, 1], "targeted:1").silent().tolist() == [True, False]


class Ridge(nn.Module):
    """Wrong only where the mean of the pixels is within 0.01 of 0.55; the way there is uphill from both sides."""

    def forward(self, images: Tensor) -> Tensor:
        margins = 0.01 - (images.flatten(1).mean(dim=1) - 0.55).abs()
        return torch.stack([torch.zeros_like(margins), margins], dim=1)


GREY, ZEROS = torch.full((4, 3, 2, 5), 0.5), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(("steps", "silent"), [(4, True), (3, False), (1, False)])
def test_a_search_that_steps_over_the_ridge_again_and_again_is_silent_where_it_ends_beside_it(
    steps: int, silent: bool
) -> None:
    attack = PGD(steps=steps, step_size=0.048, loss="margin")
    path = walked(attack, Ridge(), GREY, ZEROS, Threat.of("linf", 0.2))
    assert path.silent().tolist() == [silent] * 4


def ridge_request(select: str, **flags: Any) -> Request:
    return own_request(
        {"ridge": Ridge()}, GREY, ZEROS, 2, norm=("linf",), eps=("0.2",), steps=(4,), step_size="0.048",
        loss=("margin",), select=select, evidence="full", **flags,
    )  # fmt: skip


def test_silent_successes_count_as_broken() -> None:
    said, trust = outcome("silent_success", ridge_request("last"))
    assert (said.status, said.examined, said.against) == ("undermined", 4, 4)
    assert "silent_success" in trust.reasons.split("; ")
    assert trust.worst_correct == 0


def test_silent_successes_under_a_target_count_as_broken() -> None:
    """Of two classes the other one is the target, and the margin is that of the other class."""
    said, trust = outcome("silent_success", ridge_request("last", criterion="targeted", target="1"))
    assert (said.status, said.against, trust.worst_correct) == ("undermined", 4, 0)


def test_where_the_first_success_is_returned_none_is_silent() -> None:
    said, trust = outcome("silent_success", ridge_request("first_success"))
    assert (said.status, said.against) == ("held", 0)
    assert trust.worst_correct == 0


# Incomplete search


def progress_twin(losses: list[float]) -> float:
    """As published: the loss between 0 and 1 over the run, the best so far, and its range over the last values."""
    low, high = min(losses), max(losses)
    scaled = [(value - low) / (high - low) if high > low else 0.0 for value in losses]
    best = [max(scaled[: place + 1]) for place in range(len(scaled))]
    return max(best[-10:]) - min(best[-10:])


finite = st.floats(-20, 20).map(lambda value: round(value, 3))


@every_loss
@given(
    logits=arrays.arrays(np.float64, st.tuples(st.integers(2, 25), st.integers(1, 3), st.just(4)), elements=finite),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_progress_is_the_rise_of_the_best_loss_over_the_last_ten_iterates(
    loss: str, logits: NDArray[np.float64], data: st.DataObject
) -> None:
    # The third and the first logit may be equal, which dlr guards against in its own way.
    logits = logits + np.array([0.0, 0.0001, 0.0003, 0.0007])
    labels = [data.draw(st.integers(0, 3)) for _ in range(logits.shape[1])]
    found = path_of(logits, labels).progress(LOSSES[loss])
    expected = [
        progress_twin([VALUES[loss](row, label) for row in logits[:, place]]) for place, label in enumerate(labels)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)


class Slope(nn.Module):
    """Always right; the margin grows with every pixel."""

    def forward(self, images: Tensor) -> Tensor:
        rise = images.flatten(1).mean(dim=1)
        return torch.stack([torch.full_like(rise, 9.0), rise], dim=1)


@pytest.mark.parametrize(
    ("steps", "step_size", "share"),
    [(20, 0.01, (LAST - 1) / 20), (40, 0.01, 0.0), (5, 0.01, 1.0), (20, 0.1, 0.0)],
    ids=["rises to the end", "reaches the boundary half-way", "few steps", "reaches it at once"],
)
def test_a_search_that_still_rises_is_told_from_one_that_has_arrived(
    steps: int, step_size: float, share: float
) -> None:
    radius = 0.2
    attack = PGD(steps=steps, step_size=step_size, loss="margin")
    path = walked(attack, Slope(), GREY, ZEROS, Threat.of("linf", radius))
    np.testing.assert_allclose(path.progress(LOSSES["margin"]).numpy(), share, atol=1e-4)  # float32
    request = own_request(
        {"slope": Slope()}, GREY, ZEROS, 2, norm=("linf",), eps=(str(radius),), steps=(steps,),
        step_size=str(step_size), loss=("margin",), evidence="full",
    )  # fmt: skip
    rows = results("incomplete_search", request)
    assert [row.value for row in rows] == pytest.approx([share] * 4, abs=1e-4)
    assert [row.against for row in rows] == [share > 0] * 4
    assert {row.passes for row in rows} == {2 * steps + 1}


def test_a_search_that_never_moves_makes_no_progress() -> None:
    path = path_of(np.tile(np.array([[[2.0, 1.0, 0.5]]]), (12, 1, 1)), [0])
    assert path.progress(LOSSES["ce"]).tolist() == [0.0]


# Unstable loss


def instability_twin(
    loss: Callable[[NDArray[np.float64]], float], image: NDArray[np.float64], noise: list[NDArray[np.float64]]
) -> float:
    before, changes = loss(image), []
    for one in noise:
        after = loss(np.clip(image + (one - 0.5) * SPREAD, 0, 1))
        changes.append(min(abs(after - before) / abs(before), 1.0) if before else 1.0)
    return float(np.mean(changes))


@every_loss
def test_instability_is_the_mean_relative_change_of_the_loss(
    loss: str, problem: tuple[TanhNet, Tensor, Tensor]
) -> None:
    net, images, labels = problem
    twin = draw_twin(np.random.default_rng(1), values=3 * 5 * 4)
    found = instability(net, images, labels, LOSSES[loss], SOURCE)
    draws = [SOURCE(draw) for draw in range(DRAWS)]
    for place, label in enumerate(labels.tolist()):
        noise = [torch.rand(3, 5, 4, generator=sources[place]).double().numpy() for sources in draws]
        expected = instability_twin(
            lambda image, label=label: VALUES[loss](twin.logits(image), label), images[place].numpy(), noise
        )
        assert found[place] == pytest.approx(expected, rel=1e-7)


class Waves(nn.Module):
    """The margin is -1 and a ripple."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = height

    def forward(self, images: Tensor) -> Tensor:
        ripple = self.height * torch.sin(1e5 * images.flatten(1)).mean(dim=1)
        return torch.stack([torch.ones_like(ripple), ripple], dim=1)


@pytest.mark.parametrize(("height", "unstable"), [(0.0, False), (0.1, False), (9.0, True)])
def test_a_loss_that_shakes_is_told_from_one_that_does_not(height: float, unstable: bool) -> None:
    # Around grey the ripple itself is small, so that the images are classified correctly.
    request = own_request({"waves": Waves(height)}, GREY, ZEROS, 2, loss=("margin",), evidence="full")
    rows = results("unstable_loss", request)
    assert [row.against for row in rows] == [unstable] * len(rows) == [unstable] * 4
    assert all(row.passes == DRAWS + 1 for row in rows)
    if height == 0:
        assert [row.value for row in rows] == [0.0] * 4
    said, trust = outcome("unstable_loss", request)
    assert (said.status, said.against) == ("reported", 4 * unstable)
    assert "unstable_loss" not in trust.reasons


def test_a_loss_of_zero_counts_as_wholly_unstable_and_none_more() -> None:
    def balanced(images: Tensor) -> Tensor:
        return (images.flatten(1)[:, :2] - 0.5) * 1e6

    # Equal logits: the margin is 0, and of the other image 1, which noise changes a thousandfold.
    images = torch.full((2, 3, 5, 4), 0.5)
    images[1, 0, 0, 0] += 1e-6
    labels = torch.zeros(2, dtype=torch.long)
    found = instability(balanced, images, labels, LOSSES["margin"], PerImageRng.of(0, (0, 1)))
    assert found[0] == 1
    assert 0.9 < found[1] <= 1


def test_each_image_draws_its_own_noise(problem: tuple[TanhNet, Tensor, Tensor]) -> None:
    net, images, labels = problem
    together = instability(net, images, labels, LOSSES["ce"], SOURCE)
    for place, index in enumerate(SOURCE.indices):
        alone = instability(
            net, images[place, None], labels[place, None], LOSSES["ce"], PerImageRng.of(SOURCE.seed, [index])
        )
        torch.testing.assert_close(alone, together[place, None], rtol=1e-9, atol=0)


# Surrogate


def test_a_model_that_says_something_else_than_the_attacked_one_is_found(
    problem: tuple[TanhNet, Tensor, Tensor],
) -> None:
    net, images, labels = problem

    def other(shown: Tensor) -> Tensor:
        logits = net(shown)
        return torch.cat([logits[:2], logits[2:].roll(1, dims=1)])

    path = walked(PGD(steps=3), net, images, labels, Threat.of("l2", 0.2))
    assert path.surrogate(net).tolist() == [False] * 4
    assert path.surrogate(other).tolist() == [False, False, True, True]


class Restless(nn.Module):
    """Another answer each time it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        first = images.flatten(1).mean(dim=1) * 0 + (1.0 if self.asked % 2 else -1.0)
        return torch.stack([first, -first], dim=1)


@pytest.mark.parametrize(("network", "status"), [(Slope(), "held"), (Restless(), "undermined")], ids=["steady", "not"])
def test_a_surrogate_undermines_the_number(network: nn.Module, status: str) -> None:
    request = own_request({"net": network}, GREY, ZEROS, 2, steps=(3,), evidence="full", loss=("margin",))
    if isinstance(network, Restless):
        # After the look at its memory, the clean predictions are right.
        network.asked = -1
    said, _ = outcome("surrogate", request)
    assert said.status == status
    assert said.examined == 4


# Where there is nothing to read


@pytest.mark.parametrize("check", ["silent_success", "incomplete_search", "surrogate"])
@pytest.mark.parametrize(
    "flags",
    [
        {"attack": ("noise",)},
        {"attack": ("square",), "queries": 3},
        {"attack": ("apgd_targeted",), "steps": (2,)},
    ],
    ids=["noise", "square", "targets"],
)
def test_an_attack_without_a_path_is_not_examined_and_that_is_said(check: str, flags: dict[str, Any]) -> None:
    request = own_request({"slope": Slope()}, GREY, ZEROS, 2, evidence="full", **flags)
    said, trust = outcome(check, request)
    assert (said.status, said.sentence) == ("not done", "not done: only the paths of apgd and pgd can be read")
    assert f"{check} not done" in trust.reasons.split("; ")


def test_only_images_that_are_classified_correctly_are_looked_at_and_no_more_than_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = torch.tensor([0, 1, 0, 0, 0, 1, 0])
    images = torch.full((7, 3, 2, 5), 0.5)
    monkeypatch.setattr(contexts, "FIRST", 3)
    request = own_request({"slope": Slope()}, images, labels, 2, steps=(3,), evidence="full", loss=("margin",))
    rows = results("incomplete_search", request)
    assert [row.image for row in rows] == [0, 2, 3]
    nobody = own_request({"slope": Slope()}, images, torch.ones(7, dtype=torch.long), 2, steps=(3,), evidence="full")
    said, _ = outcome("incomplete_search", nobody)
    assert said.sentence == "not done: no image is classified correctly"
