"""What the driver of iterative attacks decides: who is in the batch, which iterate is returned, what restarts are."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import ATTACKS, LOSSES, NORMS
from robustbench_bcos.attacks import driver as drivers
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult
from robustbench_bcos.attacks.driver import IterativeAttack
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from tests.attacks.conftest import (
    VARIANTS,
    LaterRestarts,
    TanhNet,
    Witness,
    broken,
    every_attack,
    one_at_a_time,
    radius_of,
    shortened,
)

ONE_SEARCH = {
    name: attack for name, attack in VARIANTS.items() if name.split(",")[0] in ("pgd", "apgd", "square", "noise")
}
"""Those that begin without a look at the clean image, and make one search a restart."""

every_norm = pytest.mark.parametrize("norm", NORMS)
every_one_search = pytest.mark.parametrize("attack", ONE_SEARCH.values(), ids=ONE_SEARCH)


def assert_same_search(found: AttackResult, expected: AttackResult) -> None:
    torch.testing.assert_close(found.adversarials, expected.adversarials, rtol=0, atol=1e-9)
    for name in expected.trace._fields:
        assert torch.equal(getattr(found.trace, name), getattr(expected.trace, name)), name


# Batches


@every_one_search
@pytest.mark.parametrize("batch_size", [1, 4, 9, 20])
def test_places_of_images_that_leave_are_taken_at_once(
    attack: AbstractAttack, batch_size: int, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    witness = Witness(net)
    once = replace(attack, restarts=1)  # type: ignore[call-arg]
    trace = once(witness, images, labels, "l2", 0.2, batch_size=batch_size).trace
    lengths = trace.forward_passes.tolist()
    assert len(set(lengths)) > 2 or once.passes < 2 or once.options.get("select", "first_success") != "first_success"
    # The place that is free first takes the next image, as at so many counters with one queue.
    free = [0] * batch_size
    for length in lengths:
        free[free.index(min(free))] += length
    expected = [sum(turn < counter for counter in free) for turn in range(max(free))]
    assert [len(batch) for batch in witness.seen] == expected


@every_attack
@pytest.mark.parametrize(("batch_size", "every"), [(None, 50), (3, 2)])
def test_releasing_successes_seldom_changes_nothing(
    attack: AbstractAttack,
    norm: str,
    batch_size: int | None,
    every: int,
    net: TanhNet,
    images: Tensor,
    labels: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = attack(net, images, labels, norm, radius_of(norm), batch_size=batch_size)
    monkeypatch.setitem(drivers.RELEASED_EVERY, "cpu", every)
    assert_same_search(attack(net, images, labels, norm, radius_of(norm), batch_size=batch_size), expected)


def test_no_images_are_no_adversarials(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    for name in ATTACKS:
        result = shortened(name)(net, images[:0], labels[:0], "l2", 0.2)
        assert len(result.adversarials) == len(result.trace.forward_passes) == 0


# Restarts


@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=3, restarts=4, start="random"),
        PGD(steps=3, restarts=4, start="random", select="last"),
        PGD(steps=3, restarts=4, start="random", select="best_loss"),
        APGD(steps=3, restarts=4),
        APGD(steps=3, restarts=4, select="best_loss"),
        Square(queries=6, restarts=4),
        Noise(restarts=4),
    ],
    ids=str,
)
@every_norm
@pytest.mark.parametrize("batch_size", [2, None])
def test_restarts_are_searches_of_their_own_and_the_first_success_or_the_best_is_returned(
    attack: IterativeAttack, norm: str, batch_size: int | None, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    """Without a success, and where the best counts, that of the largest loss; else the last one."""
    network, epsilon, once = one_at_a_time(net), 1.5 * radius_of(norm), replace(attack, restarts=1)
    together = attack(network, images, labels, norm, epsilon, rng=PerImageRng.of(5, range(9)), batch_size=batch_size)
    objective = LOSSES[attack.options.get("loss", "margin")]
    needed = []
    for place in range(9):
        one, alone = slice(place, place + 1), []
        for restart in range(4):
            rng = LaterRestarts(5, (place,), (restart,))
            alone.append(once(network, images[one], labels[one], norm, epsilon, rng=rng))
            if broken(network, alone[-1], labels[one]):
                break
        needed.append(len(alone))
        losses = [float(objective(network(result.adversarials).detach(), labels[one])) for result in alone]
        best = attack.selects == "best_loss" or attack.keeps_best
        robust = not broken(network, alone[-1], labels[one])
        chosen = losses.index(max(losses)) if best and robust else -1
        # The sums of squares of one image alone may be rounded otherwise.
        torch.testing.assert_close(together.adversarials[one], alone[chosen].adversarials, rtol=0, atol=1e-12)
        assert together.trace.forward_passes[place] == sum(result.trace.forward_passes for result in alone)
        assert together.trace.backward_passes[place] == sum(result.trace.backward_passes for result in alone)
    assert {1, 4} <= set(needed)


@pytest.mark.parametrize("select", ["first_success", "last", "best_loss"])
@every_norm
def test_the_first_search_begins_at_the_image_and_others_at_a_draw_of_the_image(
    select: Any, norm: str, net: TanhNet, images: Tensor
) -> None:
    witness, rng = Witness(net), PerImageRng.of(4, range(30, 39))
    labels = predicted_classes(net(images).detach())
    labels[2] = (labels[2] + 1) % 7
    robust = torch.arange(9) != 2
    PGD(steps=2, restarts=3, select=select)(witness, images, labels, norm, 1e-3, rng=rng)
    assert torch.equal(witness.seen[0], images)
    for restart in (1, 2):
        noise = NORMS[norm].sample((3, 5, 4), 1e-3, rng(restart)).double()
        assert torch.equal(witness.seen[3 * restart], (images + noise).clamp(0, 1)[robust])


# Which iterate is returned


@every_norm
@pytest.mark.parametrize("loss", LOSSES)
def test_stopping_at_the_first_success_changes_no_verdict(
    norm: str, loss: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    epsilon = radius_of(norm)

    def after(steps: int) -> Tensor:
        attack = PGD(steps=steps, step_size=epsilon / 4, loss=loss, select="last")
        return attack(net, images, labels, norm, epsilon).adversarials

    path = torch.stack([images, *(after(steps) for steps in range(1, 9))])
    result = PGD(steps=8, step_size=epsilon / 4, loss=loss)(net, images, labels, norm, epsilon)
    for image, label in enumerate(labels.tolist()):
        wrong = (predicted_classes(net(path[:, image])) != label).tolist()
        first = wrong.index(True) if any(wrong) else 8
        torch.testing.assert_close(result.adversarials[image], path[first, image], rtol=0, atol=1e-12)
        assert result.trace.forward_passes[image] == first + 1
        assert result.trace.backward_passes[image] == first
    verdicts = broken(net, result, labels)
    assert verdicts.any()
    assert not verdicts.all()


@pytest.mark.parametrize("kind", [PGD, APGD])
@pytest.mark.parametrize("select", ["last", "best_loss"])
def test_other_selections_spend_every_step(
    kind: Any, select: Any, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    result = kind(steps=5, select=select, restarts=3)(net, images, labels, "l2", 0.1)
    restarts = result.trace.backward_passes // 5
    assert torch.equal(result.trace.backward_passes, 5 * restarts)
    assert torch.equal(result.trace.forward_passes, 6 * restarts)
    robust = ~broken(net, result, labels)
    assert robust.any()
    assert (restarts[robust] == 3).all()
    assert restarts.min() == 1


@every_norm
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("search", [PGD(steps=4), PGD(steps=4, start="random"), APGD(steps=4)], ids=str)
def test_the_first_success_breaks_whatever_another_selection_does(
    search: Any, norm: str, loss: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    epsilon = radius_of(norm)
    first, last, best = (
        broken(net, replace(search, loss=loss, select=select)(net, images, labels, norm, epsilon), labels)
        for select in ("first_success", "last", "best_loss")
    )
    assert not (last & ~first).any()
    assert not (best & ~first).any()


@every_norm
def test_the_best_loss_is_no_less_than_the_last(norm: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    # In a large ball and with steps as large, the best iterate is often not the last.
    epsilon = 10 * radius_of(norm)
    best, last = (
        margin(net(search(net, images, labels, norm, epsilon).adversarials).detach(), labels)
        for search in (
            PGD(steps=7, step_size=epsilon, loss="margin", select=select) for select in ("best_loss", "last")
        )
    )
    assert (best >= last).all()
    assert (best > last).any()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("option", ["steps", "queries", "targets", "restarts"])
def test_less_than_one_is_refused(name: str, option: str) -> None:
    options = shortened(name).options
    if option in options:
        with pytest.raises(ValueError, match="at least 1"):
            ATTACKS[name](**options | {option: 0})
