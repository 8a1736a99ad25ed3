"""What an attack promises whatever it is, and what PGD does on the way."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from robustbench_bcos.attacks import pgd
from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.attack import Attack, AttackResult
from robustbench_bcos.attacks.ensemble import Ensemble
from robustbench_bcos.attacks.losses import LOSSES, Loss, ce
from robustbench_bcos.attacks.noise import Noise
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.attacks.square import Square
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.model_zoo.encodings import AddInverse
from tests.attacks.conftest import Network, TanhNet, Witness, draw_twin
from tests.reference import pgd as reference
from tests.reference.pgd import TwoLayers

RADII = {"l2": 0.2, "linf": 0.03}
COUNTS = ["any", "last", "best-loss"]
ATTACKS: dict[str, Attack] = {
    "first misclassified": PGD(steps=6, restarts=2),
    "last": PGD(steps=6, count="last", loss=LOSSES["bce"]),
    "best loss": PGD(steps=6, count="best-loss", loss=LOSSES["dlr"]),
    "random start": PGD(steps=6, start="random", restarts=3, loss=LOSSES["margin"]),
    "two at a time": PGD(steps=6, restarts=2, width=2),
    "two at a time, last": PGD(steps=6, count="last", width=2),
    "two at a time, best loss": PGD(steps=6, start="random", restarts=2, count="best-loss", width=2),
    "noise": Noise(restarts=3),
    "targets": APGD(steps=6, targets=3, restarts=2),
    "targets, best loss": APGD(steps=6, targets=2, count="best-loss"),
    "square": Square(queries=20, restarts=2),
    "ensemble": Ensemble((PGD(steps=2), APGD(steps=3, targets=2), Square(queries=20))),
}

# Some images fall within these radii and others resist, so that verdicts have something to say.
every_threat = pytest.mark.parametrize(("norm", "epsilon"), RADII.items(), ids=RADII)
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_count = pytest.mark.parametrize("count", COUNTS)
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def fooled(network: Network, proposal: AttackResult, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return predicted_classes(network(proposal.candidates)) != labels


# Every attack


@every_attack
@every_threat
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2**-24), (torch.float64, 2**-53)])
def test_candidates_are_images_in_the_ball(
    attack: Attack, norm: str, epsilon: float, dtype: torch.dtype, rounding: float, net: TanhNet, images: Tensor,
    labels: Tensor,
) -> None:  # fmt: skip
    candidates = attack(net.to(dtype), images.to(dtype), labels, NORMS[norm], epsilon).candidates
    assert candidates.dtype == dtype
    assert candidates.min() >= 0
    assert candidates.max() <= 1
    sizes = NORMS[norm].size(candidates.double() - images.to(dtype).double())
    assert (sizes > 0).any()
    # Each of the 60 pixels is rounded once as a sum with its delta.
    assert (sizes <= epsilon + rounding * (60**0.5 if norm == "l2" else 1)).all()


@every_attack
@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_of_zero_returns_the_image(
    attack: Attack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    assert torch.equal(attack(net, images, labels, NORMS[norm], 0.0).candidates, images)


@every_attack
@every_threat
def test_batching_and_order_change_nothing(
    attack: Attack, norm: str, epsilon: float, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    dataset_indices = torch.tensor([41, 7, 12, 300, 2, 8, 9, 77, 5])

    def attacked(batch: list[int]) -> AttackResult:
        source = PerImageRng.of(3, dataset_indices[batch])
        return attack(net, images[batch], labels[batch], NORMS[norm], epsilon, source)

    order = [3, 8, 0, 6, 1]
    whole = attacked(order)
    parts = [attacked(order[:2]), attacked(order[2:])]
    backwards = attacked(order[::-1])
    # A matrix product may sum in another order in another batch.
    near: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(torch.cat([part.candidates for part in parts]), whole.candidates, **near)
    torch.testing.assert_close(backwards.candidates.flip(0), whole.candidates, **near)
    for field in whole.trace._fields:
        expected = getattr(whole.trace, field)
        assert torch.equal(torch.cat([getattr(part.trace, field) for part in parts]), expected)
        assert torch.equal(getattr(backwards.trace, field).flip(0), expected)


@every_attack
def test_pass_counts_are_what_the_classifier_saw(attack: Attack, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    witness = Witness(net)
    trace = attack(witness, images, labels, NORMS["l2"], 0.2).trace
    assert trace.forward_passes.sum() == sum(len(batch) for batch in witness.seen)


@every_attack
def test_an_attack_touches_neither_its_inputs_nor_the_network(
    attack: Attack, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    before = [tensor.clone() for tensor in (images, labels, *net.parameters())]
    candidates = attack(net, images, labels, NORMS["l2"], 0.2).candidates
    candidates.zero_()
    for tensor, copy in zip((images, labels, *net.parameters()), before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor.grad is None
    assert not images.requires_grad
    assert not candidates.requires_grad
    assert all(parameter.requires_grad for parameter in net.parameters())


@every_attack
def test_an_attack_leaves_the_global_generators_alone(
    attack: Attack, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    def states() -> tuple[bytes, str]:
        return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state())

    before = states()
    attack(net, images, labels, NORMS["linf"], 0.03)
    assert states() == before


@every_attack
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_count_as_misclassified(
    attack: Attack, poison: float, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    labels = predicted_classes(net(images).detach())

    def broken(shown: Tensor) -> Tensor:
        logits = net(shown).clone()
        top = F.one_hot(logits.argmax(dim=1), 7).bool()
        # In the place of the largest logit, where argmax alone would still find the label.
        return torch.where(top & (shown[:, 0, 0, 0] > 0.5)[:, None], poison, logits)

    affected = images[:, 0, 0, 0] > 0.6
    assert affected.any()
    proposal = attack(broken, images, labels, NORMS["linf"], 0.03)
    assert proposal.candidates.isfinite().all()
    assert fooled(broken, proposal, labels)[affected].all()
    if attack == ATTACKS["first misclassified"]:
        assert torch.equal(proposal.candidates[affected], images[affected])
        assert (proposal.trace.forward_passes[affected] == 1).all()
        assert (proposal.trace.backward_passes[affected] == 0).all()


# The path


@every_threat
@every_loss
@every_count
def test_pgd_equals_its_numpy_twin(
    norm: str, epsilon: float, loss: str, count: Any, net: TanhNet, twin: TwoLayers, images: Tensor, labels: Tensor
) -> None:
    attack = PGD(steps=8, step_size=0.3 * epsilon, loss=LOSSES[loss], count=count)
    candidates = attack(net, images, labels, NORMS[norm], epsilon).candidates
    for image, label, candidate in zip(images.numpy(), labels.tolist(), candidates.numpy(), strict=True):
        path = reference.iterates(
            twin, image, label, norm=norm, epsilon=epsilon, step_size=0.3 * epsilon, steps=8, loss=loss
        )
        expected = reference.candidate(twin, path, label, loss=loss, count=count)
        np.testing.assert_allclose(candidate, expected, rtol=0, atol=1e-10)  # sums in another order, over 8 steps


@every_threat
def test_pgd_on_six_encoded_channels_equals_its_numpy_twin(norm: str, epsilon: float, images: Tensor) -> None:
    twin = draw_twin(np.random.default_rng(5), values=6 * 5 * 4)
    net = TanhNet(twin)
    encoded = AddInverse()(images)
    labels = predicted_classes(net(encoded).detach())
    candidates = PGD(steps=5, count="last")(net, encoded, labels, NORMS[norm], epsilon).candidates
    for image, label, candidate in zip(encoded.numpy(), labels.tolist(), candidates.numpy(), strict=True):
        path = reference.iterates(
            twin, image, label, norm=norm, epsilon=epsilon, step_size=0.5 * epsilon, steps=5, loss="ce"
        )
        np.testing.assert_allclose(candidate, path[-1], rtol=0, atol=1e-10)
    # What this attack finds is no picture: a colour and its complement no longer add up to 1.
    assert (candidates[:, :3] + candidates[:, 3:] - 1).abs().max() > epsilon / 10


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])  # bce is not a function of the margin alone
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_on_a_linear_model_the_gain_is_epsilon_times_the_dual_norm(norm: str, loss: str, steps: int) -> None:
    weights = torch.from_numpy(np.random.default_rng(8).normal(size=(2, 3 * 5 * 4)))
    towards = (weights[1] - weights[0]).numpy()
    distance_per_epsilon = np.linalg.norm(towards, ord={"l2": 2, "linf": 1}[norm])
    # Grey, so that no pixel is clipped; two classes, so that the way out is straight.
    images = torch.full((2, 3, 5, 4), 0.5, dtype=torch.float64)
    lead = 0.05 * distance_per_epsilon

    def linear(shown: Tensor) -> Tensor:
        return (shown.flatten(1) - 0.5) @ weights.T + torch.tensor([lead, 0.0], dtype=torch.float64)

    labels = torch.zeros(2, dtype=torch.long)
    for factor in (0.99, 1.01):
        proposal = PGD(steps=steps, loss=LOSSES[loss], count="last")(linear, images, labels, NORMS[norm], 0.05 * factor)
        gains = (proposal.candidates - images).flatten(1).numpy() @ towards
        np.testing.assert_allclose(gains, factor * lead, rtol=1e-12)  # 60 products
        assert fooled(linear, proposal, labels).tolist() == [factor > 1] * 2


def test_a_step_size_of_epsilon_and_one_step_is_fgsm(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ce(net(leaf), labels).sum(), leaf)
    expected = (images + 0.03 * gradient.sign()).clamp(0, 1)
    candidates = PGD(steps=1, step_size=0.03, count="last")(net, images, labels, NORMS["linf"], 0.03).candidates
    # The projection subtracts the image and adds it again.
    torch.testing.assert_close(candidates, expected, rtol=0, atol=1e-15)


def test_the_default_step_is_two_and_a_half_epsilon_over_steps(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    default = PGD(steps=10)(net, images, labels, NORMS["l2"], 0.2).candidates
    explicit = PGD(steps=10, step_size=0.05)(net, images, labels, NORMS["l2"], 0.2).candidates
    assert torch.equal(default, explicit)


# What counts


@every_threat
@every_loss
def test_dropping_fallen_images_changes_no_verdict(
    norm: str, epsilon: float, loss: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    def after(steps: int) -> Tensor:
        attack = PGD(steps=steps, step_size=epsilon / 4, loss=LOSSES[loss], count="last")
        return attack(net, images, labels, NORMS[norm], epsilon).candidates

    path = torch.stack([images, *(after(steps) for steps in range(1, 9))])
    attack = PGD(steps=8, step_size=epsilon / 4, loss=LOSSES[loss])
    proposal = attack(net, images, labels, NORMS[norm], epsilon)
    for image, label in enumerate(labels.tolist()):
        wrong = (predicted_classes(net(path[:, image])) != label).tolist()
        first = wrong.index(True) if any(wrong) else 8
        torch.testing.assert_close(proposal.candidates[image], path[first, image], rtol=0, atol=1e-12)
        assert proposal.trace.forward_passes[image] == first + 1
        assert proposal.trace.backward_passes[image] == first
    verdicts = fooled(net, proposal, labels)
    assert verdicts.any()
    assert not verdicts.all()


def assert_same_search(found: AttackResult, expected: AttackResult) -> None:
    torch.testing.assert_close(found.candidates, expected.candidates, rtol=0, atol=1e-12)
    for name in expected.trace._fields:
        assert torch.equal(getattr(found.trace, name), getattr(expected.trace, name)), name


@every_threat
@every_count
@pytest.mark.parametrize("width", [1, 5, 9])
def test_the_width_changes_nothing(
    width: int, count: Any, norm: str, epsilon: float, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    settings: dict[str, Any] = {"steps": 6, "restarts": 2, "count": count}
    expected = PGD(**settings)(net, images, labels, NORMS[norm], epsilon)
    assert_same_search(PGD(**settings, width=width)(net, images, labels, NORMS[norm], epsilon), expected)


def test_places_of_images_that_leave_are_taken_at_once(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    witness = Witness(net)
    trace = PGD(steps=6, width=4)(witness, images, labels, NORMS["l2"], 0.2).trace
    lengths = trace.forward_passes.tolist()
    assert len(set(lengths)) > 2, "they leave at different times"
    # Whoever is free first takes the next image, as at four counters with one queue.
    free = [0] * 4
    for length in lengths:
        free[free.index(min(free))] += length
    expected = [sum(turn < counter for counter in free) for turn in range(max(free))]
    assert [len(batch) for batch in witness.seen] == expected


@every_threat
@every_count
@pytest.mark.parametrize("every", [2, 50])
@pytest.mark.parametrize("width", [None, 3])
def test_looking_seldom_at_who_has_fallen_changes_nothing(
    width: int | None,
    every: int,
    count: Any,
    norm: str,
    epsilon: float,
    net: TanhNet,
    images: Tensor,
    labels: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attack = PGD(steps=6, restarts=2, count=count, width=width)
    expected = attack(net, images, labels, NORMS[norm], epsilon)
    monkeypatch.setitem(pgd.SETTLED_EVERY, "cpu", every)
    assert_same_search(attack(net, images, labels, NORMS[norm], epsilon), expected)


@pytest.mark.parametrize("count", ["last", "best-loss"])
def test_other_ways_of_counting_spend_every_step(count: Any, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    proposal = PGD(steps=5, count=count, restarts=3)(net, images, labels, NORMS["l2"], 0.1)
    restarts = proposal.trace.backward_passes // 5
    assert torch.equal(proposal.trace.backward_passes, 5 * restarts)
    assert torch.equal(proposal.trace.forward_passes, 6 * restarts)
    robust = ~fooled(net, proposal, labels)
    assert robust.any()
    assert (restarts[robust] == 3).all()
    assert restarts.min() == 1


@every_threat
@every_loss
@pytest.mark.parametrize("start", ["image", "random"])
def test_counting_any_iterate_fools_whatever_another_count_does(
    norm: str, epsilon: float, loss: str, start: Any, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    verdicts = {
        count: fooled(net, attack(net, images, labels, NORMS[norm], epsilon), labels)
        for count in COUNTS
        for attack in [PGD(steps=4, step_size=epsilon, loss=LOSSES[loss], count=count, start=start)]  # type: ignore[arg-type]
    }
    assert not (verdicts["last"] & ~verdicts["any"]).any()
    assert not (verdicts["best-loss"] & ~verdicts["any"]).any()


@every_threat
@every_count
def test_restarts_only_ever_fool_more(
    norm: str, epsilon: float, count: Any, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    gained = torch.zeros(9, dtype=torch.bool)
    for restarts in (1, 2, 5):
        attack = PGD(steps=2, restarts=restarts, count=count, start="random", loss=LOSSES["bce"])
        verdicts = fooled(net, attack(net, images, labels, NORMS[norm], epsilon), labels)
        assert not (gained & ~verdicts).any()
        gained = verdicts
    assert not gained.all()


def test_a_restart_can_fool_what_the_first_run_did_not(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    once = PGD(steps=1, loss=LOSSES["bce"])(net, images, labels, NORMS["l2"], 0.2)
    often = PGD(steps=1, loss=LOSSES["bce"], restarts=30)(net, images, labels, NORMS["l2"], 0.2)
    assert fooled(net, often, labels).sum() > fooled(net, once, labels).sum()


# Where it starts


def test_the_first_run_starts_at_the_image_and_others_at_a_draw_of_the_image(
    net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    witness = Witness(net)
    source = PerImageRng.of(4, range(30, 39))
    labels = predicted_classes(net(images).detach())
    labels[2] = (labels[2] + 1) % 7
    robust = torch.arange(9) != 2
    PGD(steps=2, restarts=3)(witness, images, labels, NORMS["l2"], 1e-3, source)
    assert torch.equal(witness.seen[0], images)
    for restart in (1, 2):
        noise = NORMS["l2"].sample((3, 5, 4), 1e-3, source(restart)).double()
        assert torch.equal(witness.seen[3 * restart], (images + noise).clamp(0, 1)[robust])


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_uniform_in_the_ball(norm: str) -> None:
    images = torch.full((400, 3, 1, 2), 0.5, dtype=torch.float64)
    witness = Witness(lambda shown: shown.flatten(1))
    labels = torch.zeros(400, dtype=torch.long)
    PGD(steps=1, start="random")(witness, images, labels, NORMS[norm], 0.4)
    sizes = NORMS[norm].size(witness.seen[0] - images) / 0.4
    assert stats.kstest(sizes.numpy() ** 6, "uniform").pvalue > 0.01  # six dimensions


# The gradient's scale


class Detectors:
    """One direction per class, of which an image shows one: confident, as networks trained with bce are.

    The label's logit is above 4 and the others near -30; half the images fall at l2 0.6 or linf 0.06.
    """

    def __init__(self) -> None:
        random = np.random.default_rng(6)
        directions, _ = np.linalg.qr(random.normal(size=(3 * 8 * 6, 4)))
        self.directions = torch.from_numpy(directions).float()

    def __call__(self, images: Tensor) -> Tensor:
        return 112 * ((images.flatten(1) - 0.5) @ self.directions) - 30

    def examples(self) -> tuple[Tensor, Tensor]:
        labels = torch.arange(20) % 4
        contrast = torch.linspace(0.32, 1.0, 20)[:, None]
        return (0.5 + contrast * self.directions.T[labels]).view(20, 3, 8, 6), labels


@pytest.fixture
def detectors() -> Detectors:
    return Detectors()


every_strong_threat = pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.6), ("linf", 0.06)])


@every_threat
@every_loss
@every_count
def test_a_loss_a_trillion_times_smaller_changes_no_verdict(
    norm: str, epsilon: float, loss: str, count: Any, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    net, images = net.float(), images.float()
    plain = PGD(steps=6, loss=LOSSES[loss], count=count)
    small = PGD(steps=6, loss=lambda logits, labels: 1e-12 * LOSSES[loss](logits, labels), count=count)
    one, other = (attack(net, images, labels, NORMS[norm], epsilon) for attack in (plain, small))
    assert torch.equal(fooled(net, one, labels), fooled(net, other, labels))
    assert not other.trace.degenerate_gradient.any()


def common_bce(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 4).float())


@every_strong_threat
@pytest.mark.parametrize(("loss", "common"), [("bce", common_bce), ("ce", F.cross_entropy)], ids=["bce", "ce"])
def test_a_loss_loses_no_image_where_its_common_form_rounds_to_zero(
    norm: str, epsilon: float, loss: str, common: Loss, detectors: Detectors
) -> None:
    images, labels = detectors.examples()

    def confident(shown: Tensor) -> Tensor:
        return 5 * detectors(shown)

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(common(confident(leaf), labels), leaf)
    assert (gradient == 0).all()

    attack = PGD(steps=6, loss=LOSSES[loss])
    one, other = (attack(network, images, labels, NORMS[norm], epsilon) for network in (detectors, confident))
    before, after = fooled(detectors, one, labels), fooled(confident, other, labels)
    assert 3 < before.sum() < 17
    assert not (before & ~after).any()
    # ce may gain some, because at a larger scale softmax looks at the best wrong logit alone.
    assert loss == "ce" or torch.equal(before, after)
    assert not other.trace.degenerate_gradient.any()


def test_the_best_of_losses_that_float32_rounds_to_zero_is_found(detectors: Detectors) -> None:
    images, labels = detectors.examples()

    def confident(shown: Tensor) -> Tensor:
        return detectors(shown) / 4

    assert (ce(confident(images), labels) == 0).any()
    best, last = (
        ce(confident(attack(confident, images, labels, NORMS["l2"], 0.05).candidates).double(), labels)
        for attack in (PGD(steps=4, count="best-loss"), PGD(steps=4, count="last"))
    )
    assert (best >= last).all()


@every_strong_threat
def test_beyond_float64_a_saturated_loss_is_reported_and_margins_carry_on(
    norm: str, epsilon: float, detectors: Detectors
) -> None:
    images, labels = detectors.examples()

    def saturated(shown: Tensor) -> Tensor:
        return 1e4 * detectors(shown)

    for loss in ("bce", "ce"):
        proposal = PGD(steps=6, loss=LOSSES[loss])(saturated, images, labels, NORMS[norm], epsilon)
        assert proposal.trace.degenerate_gradient.all()
        assert torch.equal(proposal.candidates, images)
    for loss in ("margin", "dlr"):
        attack = PGD(steps=6, loss=LOSSES[loss])
        one, other = (attack(network, images, labels, NORMS[norm], epsilon) for network in (detectors, saturated))
        verdicts = fooled(detectors, one, labels)
        assert torch.equal(verdicts, fooled(saturated, other, labels))
        assert 3 < verdicts.sum() < 20
        assert not other.trace.degenerate_gradient.any()


# Networks to be wary of


def without_gradient(net: Network) -> dict[str, Network]:
    def in_no_grad(shown: Tensor) -> Tensor:
        with torch.no_grad():
            return net(shown)

    def vertical(shown: Tensor) -> Tensor:
        """The root of 0, whose slope is infinite."""
        return (shown - shown.detach()).flatten(1)[:, :1].sqrt()

    return {
        "rounded": lambda shown: net((shown * 8).round() / 8),
        "no_grad": in_no_grad,
        "nan": lambda shown: net(shown) + 0 * vertical(shown),
        "infinite": lambda shown: net(shown) + vertical(shown),
    }


@pytest.mark.parametrize("kind", ["rounded", "no_grad", "nan", "infinite"])
@every_count
def test_a_network_without_a_usable_gradient_is_reported(
    kind: str, count: Any, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    network = without_gradient(net)[kind]
    wrong = predicted_classes(network(images).detach()) != labels
    assert not wrong.all()
    proposal = PGD(steps=4, count=count, loss=LOSSES["bce"])(network, images, labels, NORMS["l2"], 0.01)
    assert proposal.trace.degenerate_gradient[~wrong].all()
    assert proposal.candidates.isfinite().all()


def test_a_usable_gradient_is_not_reported(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    assert not PGD(steps=4)(net, images, labels, NORMS["l2"], 0.2).trace.degenerate_gradient.any()


def test_only_the_image_without_a_gradient_is_reported(net: TanhNet, images: Tensor) -> None:
    labels = predicted_classes(net(images).detach())
    blind = torch.arange(9) == 4

    def half_blind(shown: Tensor) -> Tensor:
        logits: Tensor = net(torch.where(blind[:, None, None, None], shown.detach(), shown))
        return logits

    proposal = PGD(steps=4, count="last")(half_blind, images, labels, NORMS["l2"], 0.01)
    assert torch.equal(proposal.trace.degenerate_gradient, blind)
    assert torch.equal((proposal.candidates == images).flatten(1).all(dim=1), blind)


def test_a_blind_step_is_remembered(net: TanhNet, images: Tensor) -> None:
    labels = predicted_classes(net(images).detach())

    def blind_at_first(shown: Tensor) -> Tensor:
        logits: Tensor = net(shown.detach() if torch.equal(shown, images) else shown)
        return logits

    proposal = PGD(steps=3, restarts=2, count="last")(blind_at_first, images, labels, NORMS["l2"], 0.01)
    assert not (proposal.candidates == images).flatten(1).all(dim=1).any()
    assert proposal.trace.degenerate_gradient.all()


def test_an_iterate_that_fools_needs_no_gradient(net: TanhNet, images: Tensor) -> None:
    def rounded(shown: Tensor) -> Tensor:
        logits: Tensor = net((shown * 8).round() / 8)
        return logits

    wrong_labels = (predicted_classes(rounded(images).detach()) + 1) % 7
    proposal = PGD(steps=3, count="last")(rounded, images, wrong_labels, NORMS["l2"], 0.01)
    assert not proposal.trace.degenerate_gradient.any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"steps": -3},
        {"steps": 5, "restarts": 0},
        {"steps": 5, "step_size": 0.0},
        {"steps": 5, "step_size": -0.1},
        {"steps": 5, "step_size": float("nan")},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PGD(**arguments)


# An epsilon for each image

EPSILONS = {
    "l2": (0.05, 0.3, 0.0, 0.2, 1.5, 0.1, 0.25, 0.4, 0.2),
    "linf": (0.01, 0.05, 0.0, 0.03, 0.3, 0.1, 0.02, 1.0, 0.04),
}


def one_at_a_time(net: Network) -> Network:
    """The same network, whose sums do not depend on the batch."""
    return lambda shown: torch.cat([net(image[None]) for image in shown])


@pytest.mark.parametrize("norm", EPSILONS)
@pytest.mark.parametrize("step_size", [None, 0.02])
@every_count
def test_an_epsilon_for_each_image_is_as_if_each_were_alone(
    count: Any, step_size: float | None, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    attack = PGD(steps=6, step_size=step_size, count=count, loss=LOSSES["margin"])
    network = one_at_a_time(net)
    together = attack(network, images, labels, NORMS[norm], torch.tensor(EPSILONS[norm], dtype=torch.float64))
    for place, epsilon in enumerate(EPSILONS[norm]):
        chosen = slice(place, place + 1)
        if count != "any":
            # All images stay to the end, so that nothing but the epsilon differs: to the last bit.
            whole = attack(network, images, labels, NORMS[norm], epsilon)
            assert torch.equal(together.candidates[chosen], whole.candidates[chosen])
        alone = attack(network, images[chosen], labels[chosen], NORMS[norm], epsilon)
        # The sum of squares of one image alone may be rounded otherwise.
        slack = 0 if norm == "linf" else 1e-12
        torch.testing.assert_close(together.candidates[chosen], alone.candidates, rtol=0, atol=slack)
        for part, theirs in zip(together.trace, alone.trace, strict=True):
            assert torch.equal(part[chosen], theirs)
    assert fooled(net, together, labels).any()
    assert not fooled(net, together, labels).all()


@pytest.mark.parametrize("norm", EPSILONS)
def test_float32_epsilons_are_those_of_each_image_too(norm: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    net, images, epsilons = net.float(), images.float(), torch.tensor(EPSILONS[norm])
    network, attack = one_at_a_time(net), PGD(steps=6, loss=LOSSES["ce"])
    together = attack(network, images, labels, NORMS[norm], epsilons).candidates
    assert together.dtype == torch.float32
    for place in range(9):
        chosen = slice(place, place + 1)
        alone = attack(network, images[chosen], labels[chosen], NORMS[norm], epsilons[chosen]).candidates
        # As above; the squares are summed in float64.
        torch.testing.assert_close(together[chosen], alone, rtol=0, atol=0 if norm == "linf" else 1e-6)
        # Given as a float, the step size is worked out in float64 and rounded once.
        single = attack(network, images[chosen], labels[chosen], NORMS[norm], float(epsilons[place])).candidates
        torch.testing.assert_close(single, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", EPSILONS)
def test_equal_epsilons_are_the_same_as_one(norm: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    attack = PGD(steps=5)
    one = attack(net, images, labels, NORMS[norm], 0.125)
    each = attack(net, images, labels, NORMS[norm], torch.full((9,), 0.125, dtype=torch.float64))
    assert torch.equal(one.candidates, each.candidates)


@pytest.mark.parametrize("arguments", [{"start": "random"}, {"restarts": 2}], ids=str)
def test_a_random_start_needs_one_epsilon_for_all(
    arguments: dict[str, Any], net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(ValueError, match="one epsilon for all images where a search begins at random"):
        PGD(steps=2, **arguments)(net, images, labels, NORMS["l2"], torch.full((9,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [-0.1, torch.inf, torch.nan])
def test_one_epsilon_that_no_ball_has_is_found_among_the_others(
    wrong: float, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    epsilons = torch.full((9,), 0.1, dtype=torch.float64)
    epsilons[6] = wrong
    with pytest.raises(ValueError, match="expected a finite epsilon of at least 0, got"):
        PGD(steps=2)(net, images, labels, NORMS["l2"], epsilons)
