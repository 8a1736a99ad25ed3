"""The targeted DLR, and APGD that aims at one wrong class after the other."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks.attack import Trace
from robustbench_bcos.attacks.driver import Search
from robustbench_bcos.attacks.losses.dlr import dlr, targeted_dlr
from robustbench_bcos.attacks.searches import apgd_targeted
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator
from tests.attacks.conftest import LaterRestarts, TanhNet, Witness, broken
from tests.reference import losses as reference

RADII = {"l2": 0.3, "linf": 0.05}
"""So large that a single step breaks most images, and some only towards a later target."""

every_norm = pytest.mark.parametrize("norm", RADII)
every_number_of_classes = pytest.mark.parametrize("classes", [3, 4, 5, 10])


@pytest.fixture
def images() -> Tensor:
    return torch.rand((60, 3, 5, 4), generator=generator(1), dtype=torch.float64)


def draw(classes: int, *, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, and targets that are other classes."""
    random = np.random.default_rng(classes)
    logits = torch.from_numpy(random.normal(size=(25, classes)) * scale)
    labels = torch.from_numpy(random.integers(0, classes, size=25))
    return logits, labels, (labels + torch.from_numpy(random.integers(1, classes, size=25))) % classes


def slope_of(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(targeted_dlr(leaf, labels, targets).sum(), leaf)
    return slope


def ranked_wrong(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Wrong classes of each image, best first: (image, rank)."""
    rows = []
    for logits, label in zip(network(images).detach(), labels.tolist(), strict=True):
        rows.append([one for one in logits.argsort(descending=True).tolist() if one != label])
    return torch.tensor(rows)


def narrow(network: nn.Module, classes: int) -> Any:
    """A network of the first classes alone."""
    return lambda shown: network(shown)[:, :classes]


# The loss


@every_number_of_classes
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_targeted_dlr_equals_its_numpy_twin(classes: int, scale: float) -> None:
    logits, labels, targets = draw(classes, scale=scale)
    rows = zip(logits.numpy(), labels.tolist(), targets.tolist(), strict=True)
    expected = [reference.targeted_dlr(*row) for row in rows]
    np.testing.assert_allclose(targeted_dlr(logits, labels, targets).numpy(), expected, rtol=1e-12)


@every_number_of_classes
def test_its_slope_is_what_finite_differences_of_the_twin_say(classes: int) -> None:
    logits, labels, targets = draw(classes)
    slopes = slope_of(logits, labels, targets).numpy()
    for row, label, target, slope in zip(logits.numpy(), labels.tolist(), targets.tolist(), slopes, strict=True):
        for place in range(classes):
            step = 1e-6 * np.eye(classes)[place]
            ahead, behind = (reference.targeted_dlr(row + sign * step, label, target) for sign in (1, -1))
            # Differences of 1e-6 in numbers near 1 with 16 digits.
            assert slope[place] == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-7)


@every_number_of_classes
def test_it_is_positive_exactly_where_the_target_is_ahead_of_the_label(classes: int) -> None:
    logits, labels, targets = draw(classes)
    ahead = logits.gather(1, targets[:, None]) > logits.gather(1, labels[:, None])
    assert torch.equal(targeted_dlr(logits, labels, targets) > 0, ahead[:, 0])


@every_number_of_classes
def test_it_depends_on_neither_scale_nor_shift(classes: int) -> None:
    logits, labels, targets = draw(classes)
    for changed in (1e-3 * logits, 1e6 * logits, logits - 500):
        found, expected = targeted_dlr(changed, labels, targets), targeted_dlr(logits, labels, targets)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_with_few_classes_aiming_at_the_best_wrong_one_is_dlr(classes: int) -> None:
    logits, labels, _ = draw(classes)
    best = logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    torch.testing.assert_close(targeted_dlr(logits, labels, best), dlr(logits, labels), rtol=1e-14, atol=0)
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(dlr(leaf, labels).sum(), leaf)
    torch.testing.assert_close(slope_of(logits, labels, best), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_equal_logits_do_not_spoil_it(classes: int) -> None:
    logits, labels = torch.zeros(5, classes, dtype=torch.float64), torch.zeros(5, dtype=torch.long)
    assert targeted_dlr(logits, labels, labels + 1).isfinite().all()
    assert slope_of(logits, labels, labels + 1).isfinite().all()


def test_with_two_classes_it_points_from_the_label_to_the_other() -> None:
    logits, labels, targets = draw(2)
    direction = F.one_hot(targets, 2) - F.one_hot(labels, 2)
    torch.testing.assert_close(F.normalize(slope_of(logits, labels, targets)), direction.double() / 2**0.5)


def test_it_is_not_among_the_losses_of_two_arguments() -> None:
    assert "targeted_dlr" not in LOSSES


# The search


@every_norm
def test_each_target_is_a_search_of_its_own_with_its_own_starts(
    norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    attack, epsilon = TargetedAPGD(steps=1, targets=3, restarts=2), RADII[norm]
    together = attack(net, images, labels, norm, epsilon, rng=PerImageRng.of(5, range(100, 160)))
    ranked = ranked_wrong(net, images, labels)
    needed = []
    for place in range(59):
        one = slice(place, place + 1)
        for number in range(6):
            loss = partial(targeted_dlr, targets=ranked[one, number // 2])
            rng = LaterRestarts(5, (100 + place,), (number,))
            single = APGD(steps=1, loss=loss)(net, images[one], labels[one], norm, epsilon, rng=rng)
            if broken(net, single, labels[one]):
                break
        needed.append(number)
        torch.testing.assert_close(together.adversarials[one], single.adversarials, rtol=0, atol=1e-12)
        # The ranking, two passes of every search before the last, and the last one's.
        assert together.trace.forward_passes[place] == 1 + 2 * number + single.trace.forward_passes[0]
    assert {0, 1, 2, 5} <= set(needed)


def test_targets_are_taken_from_the_clean_image_best_first(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    ranked = ranked_wrong(net, images, labels)
    witness = Witness(net)
    # So small a ball that no image is broken.
    TargetedAPGD(steps=1, targets=4)(witness, images[:8], labels[:8], "l2", 1e-6)
    clean, *pairs = witness.seen
    assert torch.equal(clean, images[:8])
    for rank in range(4):
        loss, rng = partial(targeted_dlr, targets=ranked[:8, rank]), LaterRestarts(0, tuple(range(8)), (rank,))
        alone = Witness(net)
        APGD(steps=1, loss=loss)(alone, clean, labels[:8], "l2", 1e-6, rng=rng)
        for shown, expected in zip(pairs[2 * rank : 2 * rank + 2], alone.seen, strict=True):
            torch.testing.assert_close(shown, expected, rtol=0, atol=1e-15)  # sums in another order


def test_more_targets_than_there_are_means_all(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    all_six, too_many = (
        TargetedAPGD(steps=4, targets=targets)(net, images, labels, "l2", 0.05) for targets in (6, 1000)
    )
    assert torch.equal(all_six.adversarials, too_many.adversarials)
    robust = ~broken(net, all_six, labels)
    assert robust.any()
    for result in (all_six, too_many):
        assert (result.trace.forward_passes[robust] == 1 + 6 * 5).all()
        assert (result.trace.backward_passes[robust] == 6 * 4).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_two_and_three_classes_are_as_many_targets_as_they_have(classes: int, net: TanhNet, images: Tensor) -> None:
    few = narrow(net, classes)
    labels = predicted_classes(few(images).detach())
    for norm, epsilon in RADII.items():
        aimed = TargetedAPGD(steps=20, targets=9)(few, images, labels, norm, epsilon)
        plain = APGD(steps=20)(few, images, labels, norm, epsilon)
        by_aimed, by_plain = (broken(few, found, labels) for found in (aimed, plain))
        assert 0 < by_aimed.sum() < 60
        assert not (by_plain & ~by_aimed).any()
        assert (aimed.trace.forward_passes[~by_aimed] == 1 + 21 * (classes - 1)).all()


def test_what_is_misclassified_already_costs_the_one_look(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    result = TargetedAPGD(steps=4, targets=3)(net, images, labels, "l2", 0.2)
    assert torch.equal(result.adversarials[-1], images[-1])
    assert result.trace.forward_passes[-1] == 1
    assert result.trace.backward_passes[-1] == 0


# Brief searches


def given_up_at(losses: list[float]) -> int | None:
    """Of a search of 10 steps, the number of the first even one at which the pace does not lead to 0."""
    for step in range(4, min(10, len(losses) - 1), 2):
        before, now = max(losses[: step - 1]), max(losses[: step + 1])
        if now + (now - before) / 2 * (10 - step) < 0:
            return step
    return None


@pytest.mark.parametrize("norm", [*RADII, "l1"])
def test_a_brief_search_gives_up_what_cannot_get_there_and_returns_its_best(
    norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    epsilon = {"l2": 0.25, "linf": 0.04, "l1": 1.5}[norm]
    brief, long = TargetedAPGD(steps=10, targets=1, brief=True), TargetedAPGD(steps=10, targets=1)
    found = brief(net, images[:30], labels[:30], norm, epsilon)
    targets = ranked_wrong(net, images, labels)[:, :1]
    ends = set()
    for place in range(30):
        one = slice(place, place + 1)
        witness = Witness(net)
        whole = long(witness, images[one], labels[one], norm, epsilon, rng=PerImageRng.of(0, [place]))
        shown = torch.cat(witness.seen[1:])
        losses = targeted_dlr(net(shown).detach(), labels[one].expand(len(shown)), targets[place].expand(len(shown)))
        end = given_up_at(losses.tolist())
        ends.add(end)
        last = len(shown) - 1 if end is None else end
        expected = (
            shown[-1:] if end is None and broken(net, whole, labels[one]) else shown[losses[: last + 1].argmax()][None]
        )
        assert (found.trace.forward_passes[place], found.trace.backward_passes[place]) == (2 + last, last)
        torch.testing.assert_close(found.adversarials[one], expected, rtol=0, atol=1e-9)
    assert len(ends) > 2


@pytest.mark.parametrize("norm", [*RADII, "l1"])
def test_all_targets_of_a_brief_search_but_the_first_are_aimed_at_together(
    norm: str, net: TanhNet, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    epsilon = {"l2": 0.25, "linf": 0.04, "l1": 1.5}[norm]
    several, one_target = (TargetedAPGD(steps=10, targets=targets, brief=True) for targets in (3, 1))
    found = several(net, images[:30], labels[:30], norm, epsilon, batch_size=7)
    targets = ranked_wrong(net, images, labels)[:, :3]
    taken = set()
    for place in range(30):
        one = slice(place, place + 1)
        itself = PerImageRng.of(0, [place])
        copies = itself.repeated(2)
        searches = []
        for rank, rng in enumerate((itself, copies.select([0]), copies.select([1]))):
            with monkeypatch.context() as patched:
                patched.setattr(apgd_targeted, "likeliest_wrong_classes", lambda *_: [targets[one, rank]])  # noqa: B023
                searches.append(one_target(net, images[one], labels[one], norm, epsilon, rng=rng))
        success = [broken(net, search, labels[one]) for search in searches]
        losses = [
            float(targeted_dlr(net(search.adversarials).detach(), labels[one], targets[one, rank]))
            for rank, search in enumerate(searches)
        ]
        chosen = success.index(True) if any(success) else losses.index(max(losses))
        taken.add((chosen, any(success)))
        torch.testing.assert_close(found.adversarials[one], searches[chosen].adversarials, rtol=0, atol=1e-9)
        carried_out = searches[:1] if success[0] else searches
        # The classes are ranked once.
        passes = sum(int(search.trace.forward_passes) - 1 for search in carried_out) + 1
        assert found.trace.forward_passes[place] == passes
        assert found.trace.backward_passes[place] == sum(int(search.trace.backward_passes) for search in carried_out)
    assert {broke for _, broke in taken} == {True, False}
    assert len(taken) >= 3


def test_of_several_searches_of_an_image_the_first_success_counts_and_otherwise_the_largest_loss() -> None:
    def found(succeeded: list[bool], best: list[float], first: float) -> Search:
        search = object.__new__(Search)
        search.succeeded, search.best = torch.tensor(succeeded), torch.tensor(best, dtype=torch.float64)
        search.adversarials = (first + torch.arange(len(best))).view(-1, 1, 1, 1)
        search.trace = Trace.blank(search.adversarials)
        search.trace.forward_passes.add_(1)
        return search

    # Of four images the third is already broken. Copies: of the first two succeed, the larger loss comes second; none
    # of the second's comes nearer than it was; the last one's second does.
    search = found([False, False, True, False], [-3.0, -1.0, 1.0, -2.0], first=0)
    copies = found([True, False, False, True, False, False], [0.1, -2.0, -3.0, 0.5, -4.0, -1.5], first=10)
    search.include(copies, torch.tensor([0, 1, 3]))
    assert search.adversarials.flatten().tolist() == [10, 1, 2, 15]
    assert search.succeeded.tolist() == [True, False, True, False]
    assert search.best.tolist() == [0.1, -1.0, 1.0, -1.5]
    assert search.trace.forward_passes.tolist() == [3, 3, 1, 3]


def test_candidates_are_tried_in_the_order_of_their_linear_distance(
    net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    for norm, dual in (("l2", 2), ("linf", 1)):
        witness = Witness(net)
        TargetedAPGD(steps=1, targets=2, candidates=4)(witness, images[:8], labels[:8], norm, 1e-6)
        nearest = []
        for image, label, likeliest in zip(images, labels, ranked_wrong(net, images, labels), strict=False):
            jacobian = torch.func.jacrev(lambda one: net(one[None])[0])(image).detach()
            logits = net(image[None])[0].detach()
            distances = [
                (logits[label] - logits[wrong]) / (jacobian[wrong] - jacobian[label]).flatten().norm(dual)
                for wrong in likeliest[:4]
            ]
            nearest.append(likeliest[torch.stack(distances).argsort()[:2]])
        for rank, chosen in enumerate(torch.stack(nearest[:8]).T):
            alone, rng = Witness(net), LaterRestarts(0, tuple(range(8)), (rank,))
            loss = partial(targeted_dlr, targets=chosen)
            APGD(steps=1, loss=loss)(alone, images[:8], labels[:8], norm, 1e-6, rng=rng)
            # The clean images twice, for logits and for distances; then two iterates for each target.
            for shown, expected in zip(witness.seen[2 + 2 * rank :], alone.seen, strict=False):
                torch.testing.assert_close(shown, expected, rtol=0, atol=1e-15)


@every_norm
def test_verdicts_are_those_of_torchattacks(
    norm: str, net: TanhNet, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    epsilon = RADII[norm]
    # One draw for every image and target: they draw for whole batches of what is still robust.
    pattern = torch.rand(images.shape[1:], generator=generator(1), dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda shape: pattern.expand(shape).clone())
    monkeypatch.setattr(torch, "randn", lambda shape: pattern.expand(shape).clone())
    peer = torchattacks.APGDT(net, norm={"l2": "L2", "linf": "Linf"}[norm], eps=epsilon, steps=5, n_classes=7)
    with torch.random.fork_rng():
        theirs = peer(images.contiguous(), labels)
    monkeypatch.undo()
    delta = pattern if norm == "l2" else 2 * pattern - 1

    def same_start(threat: Threat, shape: Any, sources: Any) -> Tensor:
        return (delta * threat.radius / threat.size(delta[None])).expand(len(sources), *shape)

    monkeypatch.setattr(Threat, "sample_sphere", same_start)
    attack = TargetedAPGD(steps=5, targets=6, zero_index=True)
    ours = broken(net, attack(net, images, labels, norm, epsilon), labels)
    once = TargetedAPGD(steps=5, targets=1, zero_index=True)(net, images, labels, norm, epsilon)
    found = broken(net, theirs, labels)
    assert found.sum() < 60
    assert broken(net, once, labels).sum() < found.sum()
    assert torch.equal(ours, found)
