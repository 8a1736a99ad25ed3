"""PGD: its path, its steps, and what it makes of gradients that are faint or none."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from robustbench_bcos.attacks import LOSSES, NORMS
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.attacks.losses.ce import ce
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.selection import Select
from robustbench_bcos.model_zoo.encodings import AddInverse
from tests.attacks.conftest import Network, TanhNet, Witness, broken, draw_twin, one_at_a_time
from tests.reference import pgd as reference
from tests.reference.pgd import TwoLayers

RADII = {"l2": 0.2, "linf": 0.03}
SELECTIONS: list[Select] = ["first_success", "last", "best_loss"]

# Some images are broken within these radii and others stay robust, so that verdicts have something to say.
every_threat = pytest.mark.parametrize(("norm", "epsilon"), RADII.items(), ids=RADII)
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_selection = pytest.mark.parametrize("select", SELECTIONS)


# The path


@every_threat
@every_loss
@every_selection
def test_pgd_equals_its_numpy_twin(
    norm: str, epsilon: float, loss: str, select: Select, net: TanhNet, twin: TwoLayers, images: Tensor, labels: Tensor
) -> None:
    attack = PGD(steps=8, step_size=0.3 * epsilon, loss=loss, select=select)
    adversarials = attack(net, images, labels, norm, epsilon).adversarials
    for image, label, adversarial in zip(images.numpy(), labels.tolist(), adversarials.numpy(), strict=True):
        path = reference.iterates(
            twin, image, label, norm=norm, epsilon=epsilon, step_size=0.3 * epsilon, steps=8, loss=loss
        )
        expected = reference.adversarial(twin, path, label, loss=loss, select=select)
        np.testing.assert_allclose(adversarial, expected, rtol=0, atol=1e-10)  # sums in another order, over 8 steps


@every_threat
def test_pgd_on_six_encoded_channels_equals_its_numpy_twin(norm: str, epsilon: float, images: Tensor) -> None:
    twin = draw_twin(np.random.default_rng(5), values=6 * 5 * 4)
    net = TanhNet(twin)
    encoded = AddInverse()(images)
    labels = predicted_classes(net(encoded).detach())
    adversarials = PGD(steps=5, select="last")(net, encoded, labels, norm, epsilon).adversarials
    for image, label, adversarial in zip(encoded.numpy(), labels.tolist(), adversarials.numpy(), strict=True):
        path = reference.iterates(
            twin, image, label, norm=norm, epsilon=epsilon, step_size=0.5 * epsilon, steps=5, loss="ce"
        )
        np.testing.assert_allclose(adversarial, path[-1], rtol=0, atol=1e-10)
    # What this attack finds is no picture: a colour and its complement no longer add up to 1.
    assert (adversarials[:, :3] + adversarials[:, 3:] - 1).abs().max() > epsilon / 10


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])  # bce is not a function of the margin alone
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_on_a_linear_model_the_gain_is_epsilon_times_the_dual_norm(norm: str, loss: str, steps: int) -> None:
    weights = torch.from_numpy(np.random.default_rng(8).normal(size=(2, 3 * 5 * 4)))
    towards = (weights[1] - weights[0]).numpy()
    gradient = torch.from_numpy(towards).view(1, 3, 5, 4)
    # The dual norm.
    distance_per_epsilon = float((gradient * NORMS[norm].steepest_ascent(gradient)).sum())
    # Grey, so that no pixel is clipped; two classes, so that the way out is straight.
    images = torch.full((2, 3, 5, 4), 0.5, dtype=torch.float64)
    lead = 0.05 * distance_per_epsilon

    def linear(shown: Tensor) -> Tensor:
        return (shown.flatten(1) - 0.5) @ weights.T + torch.tensor([lead, 0.0], dtype=torch.float64)

    labels = torch.zeros(2, dtype=torch.long)
    for factor in (0.99, 1.01):
        result = PGD(steps=steps, loss=loss, select="last")(linear, images, labels, norm, 0.05 * factor)
        gains = (result.adversarials - images).flatten(1).numpy() @ towards
        np.testing.assert_allclose(gains, factor * lead, rtol=1e-12)  # 60 products
        assert broken(linear, result, labels).tolist() == [factor > 1] * 2


def test_a_step_size_of_epsilon_and_one_step_is_fgsm(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ce(net(leaf), labels).sum(), leaf)
    expected = (images + 0.03 * gradient.sign()).clamp(0, 1)
    adversarials = PGD(steps=1, step_size=0.03, select="last")(net, images, labels, "linf", 0.03).adversarials
    # The projection subtracts the image and adds it again.
    torch.testing.assert_close(adversarials, expected, rtol=0, atol=1e-15)


def test_the_default_step_is_two_and_a_half_epsilon_over_steps(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    default = PGD(steps=10)(net, images, labels, "l2", 0.2).adversarials
    explicit = PGD(steps=10, step_size=0.05)(net, images, labels, "l2", 0.2).adversarials
    assert torch.equal(default, explicit)


# Where it starts


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_uniform_in_the_ball(norm: str) -> None:
    images = torch.full((400, 3, 1, 2), 0.5, dtype=torch.float64)
    witness = Witness(lambda shown: shown.flatten(1))
    labels = torch.zeros(400, dtype=torch.long)
    PGD(steps=1, start="random")(witness, images, labels, norm, 0.4)
    sizes = NORMS[norm].size(witness.seen[0] - images) / 0.4
    assert stats.kstest(sizes.numpy() ** 6, "uniform").pvalue > 0.01  # six dimensions


# The gradient's scale


class Detectors:
    """One direction per class, of which an image shows one: confident, as networks trained with bce are.

    The label's logit is above 4 and the others near -30; half the images are broken at l2 0.6 or linf 0.06.
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

    attack = PGD(steps=6, loss=loss)
    one, other = (attack(network, images, labels, norm, epsilon) for network in (detectors, confident))
    before, after = broken(detectors, one, labels), broken(confident, other, labels)
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
        ce(confident(attack(confident, images, labels, "l2", 0.05).adversarials).double(), labels)
        for attack in (PGD(steps=4, select="best_loss"), PGD(steps=4, select="last"))
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
        result = PGD(steps=6, loss=loss)(saturated, images, labels, norm, epsilon)
        assert result.trace.degenerate_gradient.all()
        assert torch.equal(result.adversarials, images)
    for loss in ("margin", "dlr"):
        attack = PGD(steps=6, loss=loss)
        one, other = (attack(network, images, labels, norm, epsilon) for network in (detectors, saturated))
        verdicts = broken(detectors, one, labels)
        assert torch.equal(verdicts, broken(saturated, other, labels))
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
@every_selection
def test_a_network_without_a_usable_gradient_is_reported(
    kind: str, select: Select, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    network = without_gradient(net)[kind]
    wrong = predicted_classes(network(images).detach()) != labels
    assert not wrong.all()
    result = PGD(steps=4, select=select, loss="bce")(network, images, labels, "l2", 0.01)
    assert result.trace.degenerate_gradient[~wrong].all()
    assert result.adversarials.isfinite().all()


def test_a_usable_gradient_is_not_reported(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    assert not PGD(steps=4)(net, images, labels, "l2", 0.2).trace.degenerate_gradient.any()


def test_only_the_image_without_a_gradient_is_reported(net: TanhNet, images: Tensor) -> None:
    labels = predicted_classes(net(images).detach())
    blind = torch.arange(9) == 4

    def half_blind(shown: Tensor) -> Tensor:
        logits: Tensor = net(torch.where(blind[:, None, None, None], shown.detach(), shown))
        return logits

    result = PGD(steps=4, select="last")(half_blind, images, labels, "l2", 0.01)
    assert torch.equal(result.trace.degenerate_gradient, blind)
    assert torch.equal((result.adversarials == images).flatten(1).all(dim=1), blind)


def test_a_blind_step_is_remembered(net: TanhNet, images: Tensor) -> None:
    labels = predicted_classes(net(images).detach())

    def blind_at_first(shown: Tensor) -> Tensor:
        logits: Tensor = net(shown.detach() if torch.equal(shown, images) else shown)
        return logits

    result = PGD(steps=3, restarts=2, select="last")(blind_at_first, images, labels, "l2", 0.01)
    assert not (result.adversarials == images).flatten(1).all(dim=1).any()
    assert result.trace.degenerate_gradient.all()


def test_an_iterate_that_fools_needs_no_gradient(net: TanhNet, images: Tensor) -> None:
    def rounded(shown: Tensor) -> Tensor:
        logits: Tensor = net((shown * 8).round() / 8)
        return logits

    wrong_labels = (predicted_classes(rounded(images).detach()) + 1) % 7
    result = PGD(steps=3, select="last")(rounded, images, wrong_labels, "l2", 0.01)
    assert not result.trace.degenerate_gradient.any()


@pytest.mark.parametrize("step_size", [0.0, -0.1, float("nan"), "0", "-1/255", "wide"])
def test_a_step_size_that_no_step_has_is_refused(step_size: float | str) -> None:
    with pytest.raises((ValueError, RequestError), match=r"step size, got 0|^step_size '.*' (must be|is not)"):
        PGD(step_size=step_size)


@pytest.mark.parametrize("step_size", ["8/255", Quantity.of("8/255")], ids=str)
def test_a_step_size_may_be_text(step_size: Any, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    one, other = (
        PGD(steps=3, step_size=size)(net, images, labels, "l2", 0.2).adversarials for size in (step_size, 8 / 255)
    )
    assert torch.equal(one, other)


# An epsilon for each image

EPSILONS = {
    "l2": (0.05, 0.3, 0.0, 0.2, 1.5, 0.1, 0.25, 0.4, 0.2),
    "linf": (0.01, 0.05, 0.0, 0.03, 0.3, 0.1, 0.02, 1.0, 0.04),
}


@pytest.mark.parametrize("norm", EPSILONS)
@pytest.mark.parametrize("step_size", [None, 0.02])
@every_selection
def test_an_epsilon_for_each_image_is_as_if_each_were_alone(
    select: Select, step_size: float | None, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    attack = PGD(steps=6, step_size=step_size, select=select, loss="margin")
    network = one_at_a_time(net)
    together = attack(network, images, labels, norm, torch.tensor(EPSILONS[norm], dtype=torch.float64))
    for place, epsilon in enumerate(EPSILONS[norm]):
        chosen = slice(place, place + 1)
        if select != "first_success":
            # All images stay to the end, so that nothing but the epsilon differs: to the last bit.
            whole = attack(network, images, labels, norm, epsilon)
            assert torch.equal(together.adversarials[chosen], whole.adversarials[chosen])
        alone = attack(network, images[chosen], labels[chosen], norm, epsilon)
        # The sum of squares of one image alone may be rounded otherwise.
        slack = 0 if norm == "linf" else 1e-12
        torch.testing.assert_close(together.adversarials[chosen], alone.adversarials, rtol=0, atol=slack)
        for part, theirs in zip(together.trace, alone.trace, strict=True):
            assert torch.equal(part[chosen], theirs)
    assert broken(net, together, labels).any()
    assert not broken(net, together, labels).all()


@pytest.mark.parametrize("norm", EPSILONS)
def test_float32_epsilons_are_those_of_each_image_too(norm: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    net, images, epsilons = net.float(), images.float(), torch.tensor(EPSILONS[norm])
    network, attack = one_at_a_time(net), PGD(steps=6, loss="ce")
    together = attack(network, images, labels, norm, epsilons).adversarials
    assert together.dtype == torch.float32
    for place in range(9):
        chosen = slice(place, place + 1)
        alone = attack(network, images[chosen], labels[chosen], norm, epsilons[chosen]).adversarials
        # As above; the squares are summed in float64.
        torch.testing.assert_close(together[chosen], alone, rtol=0, atol=0 if norm == "linf" else 1e-6)
        # Given as a float, the step size is worked out in float64 and rounded once.
        single = attack(network, images[chosen], labels[chosen], norm, float(epsilons[place])).adversarials
        torch.testing.assert_close(single, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", EPSILONS)
def test_equal_epsilons_are_the_same_as_one(norm: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    attack = PGD(steps=5)
    one = attack(net, images, labels, norm, 0.125)
    each = attack(net, images, labels, norm, torch.full((9,), 0.125, dtype=torch.float64))
    assert torch.equal(one.adversarials, each.adversarials)


@pytest.mark.parametrize("arguments", [{"start": "random"}, {"restarts": 2}], ids=str)
def test_a_random_start_needs_one_epsilon_for_all(
    arguments: dict[str, Any], net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(ValueError, match="one epsilon for all images, got one for each"):
        PGD(steps=2, **arguments)(net, images, labels, "l2", torch.full((9,), 0.1, dtype=torch.float64))


def test_a_loader_has_the_labels_of_its_images(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    pgd = PGD(steps=2)
    pairs = TensorDataset(images, labels)
    wanted = pgd(net, images, labels, "l2", 0.5).adversarials
    for given in (pairs, DataLoader(pairs, batch_size=2)):
        assert torch.equal(pgd(net, given, norm="l2", epsilon=0.5).adversarials, wanted)


def test_what_is_missing_beside_a_loader_is_one_sentence(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    pairs = TensorDataset(images, labels)
    for arguments in ((pairs,), (pairs, "l2", 0.5), (pairs, Threat.of("l2", 0.5))):
        with pytest.raises(RequestError, match=r"^norm is missing, or stands where labels do: .* norm='l2'$"):
            PGD(steps=2)(net, *arguments)
    with pytest.raises(RequestError, match=r"^labels are missing: give one class for each image"):
        PGD(steps=2)(net, images, norm="l2", epsilon=0.5)
