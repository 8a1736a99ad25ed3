"""Small steps at the end of a search: into regions that longer ones leap over, and no further than there is hope."""

import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import halts
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.attacks.refined import Refined, Refinement
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.pgd import PGD
from tests.attacks.conftest import TanhNet, Witness, broken
from tests.attacks.test_halts import Sessions, problem_of

RADII = {"l2": 0.5, "linf": 0.08}
SEARCHES = {"apgd": APGD(steps=4), "targeted": TargetedAPGD(steps=5, targets=2, brief=True)}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


class Hole:
    """Wrong only where the mean distance from one point is below a width, and the nearer to it the more."""

    def __init__(self, width: float) -> None:
        self.width = width

    def __call__(self, images: Tensor) -> Tensor:
        point = torch.linspace(0.51, 0.59, 60, dtype=images.dtype).view(3, 5, 4)
        distance = (images - point).abs().flatten(1).mean(dim=1)
        return torch.stack([distance, torch.full_like(distance, self.width)], dim=1)


def test_small_steps_find_what_long_ones_leap_over() -> None:
    images, labels = torch.full((1, 3, 5, 4), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    hole = Hole(width=0.002)
    long, short = (attack(hole, images, labels, "linf", 0.1) for attack in (PGD(steps=20, loss="margin"), Refinement()))
    assert not broken(hole, long, labels).any()
    assert broken(hole, short, labels).all()
    assert (short.adversarials - images).abs().amax() <= 0.1


@pytest.mark.parametrize("norm", RADII)
@every_search
def test_a_refined_search_breaks_what_the_search_alone_does_and_stays_within(
    search: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    alone = search(net, images, labels, norm, 0.5 * RADII[norm])
    refined = Refined(search=search)(net, images, labels, norm, 0.5 * RADII[norm])
    assert not (broken(net, alone, labels) & ~broken(net, refined, labels)).any()
    sizes = (refined.adversarials - images).flatten(1).norm(p=float(norm.removeprefix("l")), dim=1)
    assert (sizes <= 0.5 * RADII[norm] * (1 + 1e-9)).all()


@every_search
def test_what_succeeded_already_costs_a_look_and_stays_as_it_is(
    search: AbstractAttack, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    alone = search(net, images, labels, "l2", RADII["l2"])
    refined = Refined(search=search)(net, images, labels, "l2", RADII["l2"])
    down = broken(net, alone, labels)
    assert down.any()
    assert torch.equal(refined.adversarials[down], alone.adversarials[down])
    assert (refined.trace.forward_passes[down] == alone.trace.forward_passes[down] + 1).all()
    assert torch.equal(refined.trace.backward_passes[down], alone.trace.backward_passes[down])


def test_images_that_move_nowhere_are_given_up_at_their_best(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    robust = ~broken(net, images, labels)
    witness = Witness(net)
    found = Refinement(steps=20)(witness, images[robust], labels[robust], "l2", 1e-3)
    # The second of five looks is the first that is answered.
    assert (found.trace.forward_passes == 9).all()
    assert (found.trace.backward_passes == 8).all()
    shown = torch.stack(witness.seen)
    with torch.no_grad():
        margins = torch.stack([margin(net(iterates), labels[robust]) for iterates in shown[:9]])
    best = shown[margins.argmax(dim=0), torch.arange(shown.shape[1])]
    torch.testing.assert_close(found.adversarials, best)


@every_search
def test_it_goes_on_where_it_was_left(
    search: AbstractAttack, net: TanhNet, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halts, "SECONDS", 0.0)
    attack = Refined(search=search)
    whole = attack.solve(problem_of(Witness(net), images, labels, "l2"))
    sessions = Sessions(every=3)
    again = sessions.carry_out(attack, problem_of(Witness(net), images, labels, "l2"))
    assert sessions.count > 2
    assert any("refinement" in halt.stage for halt in sessions.seen)
    assert torch.equal(again.adversarials, whole.adversarials)
    assert torch.equal(again.trace.forward_passes, whole.trace.forward_passes)
    assert all(0 <= halt.share <= 1 + 1e-9 for halt in sessions.seen)
