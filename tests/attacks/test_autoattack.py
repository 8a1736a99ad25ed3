"""Ensembles: every member, on what is still robust; and AutoAttack's, against the parts torchattacks has."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Problem, Trace
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.autoattack import AutoAttack, Ensemble
from robustbench_bcos.attacks.searches.fab import FAB, torchattacks_available
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator
from tests.attacks.conftest import TanhNet, broken, draw_twin, knows, radius_of

every_norm = pytest.mark.parametrize("norm", [norm for norm in NORMS if knows(Square(), norm)])


@pytest.fixture
def images() -> Tensor:
    return torch.rand((40, 3, 5, 4), generator=generator(1), dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Scripted(AbstractAttack):
    """An attack that breaks the images it is told to, by their indices, and notes what it was given."""

    breaks: frozenset[int]
    met: list[tuple[int, ...]] = field(default_factory=list)

    def _search(self, problem: Problem) -> AttackResult:
        self.met.append(problem.rng.indices)
        adversarials, trace = problem.images.clone(), Trace.blank(problem.images)
        for place, index in enumerate(problem.rng.indices):
            adversarials[place] = 1.0 if index in self.breaks else 0.5
            trace.degenerate_gradient[place] = index in self.breaks
            trace.forward_passes[place] = 100 + index
            trace.backward_passes[place] = index
        return AttackResult(adversarials, trace)

    @property
    def passes(self) -> int:
        return 10


def scripted(*breaks: int) -> Scripted:
    return Scripted(breaks=frozenset(breaks))


def white(shown: Tensor) -> Tensor:
    """Says 1 of white images and 0 of others."""
    share = (shown == 1).double().mean((1, 2, 3))
    return torch.stack([1 - share, share], dim=1)


def test_members_meet_in_order_what_is_still_robust_and_their_traces_add_up() -> None:
    images = torch.zeros(5, 1, 2, 3, dtype=torch.float64)
    members = scripted(12), scripted(10, 14), scripted(11), scripted(13, 11)
    source = PerImageRng.of(0, [10, 11, 12, 13, 14])
    labels = torch.zeros(5, dtype=torch.long)
    adversarials, trace = Ensemble(members=members)(white, images, labels, "linf", 1.0, rng=source)
    met = [(10, 11, 12, 13, 14), (10, 11, 13, 14), (11, 13), (13,)]
    assert [member.met for member in members] == [[indices] for indices in met]
    assert (adversarials == 1).all()
    # A pass more for every member after the first that it might have met.
    assert trace.forward_passes.tolist() == [2 * 110 + 2, 3 * 111 + 3, 112 + 1, 4 * 113 + 3, 2 * 114 + 2]
    assert trace.backward_passes.tolist() == [2 * 10, 3 * 11, 12, 4 * 13, 2 * 14]
    assert trace.degenerate_gradient.all()


def test_no_member_is_called_when_every_image_is_broken() -> None:
    images, labels = torch.zeros(2, 1, 2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    late = scripted()
    result = Ensemble(members=(scripted(0, 1), late))(white, images, labels, "linf", 1.0)
    assert late.met == []
    assert (result.adversarials == 1).all()
    assert result.trace.forward_passes.tolist() == [101, 102]


@every_norm
def test_it_breaks_whatever_a_member_breaks(norm: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    members = Noise(restarts=2), PGD(steps=1, loss="margin"), TargetedAPGD(steps=2, targets=2), Square(queries=60)
    epsilon, rng = radius_of(norm), PerImageRng.of(4, range(40))
    together = broken(net, Ensemble(members=members)(net, images, labels, norm, epsilon, rng=rng), labels)
    apart = torch.zeros_like(together)
    for number, member in enumerate(members):
        apart |= broken(net, member(net, images, labels, norm, epsilon, rng=rng.fold_in(number)), labels)
    assert torch.equal(together, apart)
    assert 5 < together.sum() < 40


def test_members_draw_from_streams_of_their_own(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    source = PerImageRng.of(2, range(40))
    # Too small a ball to fool: the second draw is what is proposed.
    found = Ensemble(members=(Noise(), Noise()))(net, images, labels, "linf", 1e-6, rng=source).adversarials
    expected = NORMS["linf"].sample(images.shape[1:], 1e-6, source.fold_in(1)(0))
    assert torch.equal(found[:-1], (images + expected).clamp(0, 1)[:-1])
    first = NORMS["linf"].sample(images.shape[1:], 1e-6, source.fold_in(0)(0))
    assert torch.equal(found[-1], (images[-1] + first[-1]).clamp(0, 1))


def test_an_ensemble_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble(members=())


# AutoAttack


def test_the_standard_ensemble_is_the_published_one() -> None:
    ce, targeted, square = (
        APGD(steps=100, loss="ce"),
        TargetedAPGD(steps=100, targets=9),
        Square(queries=5000, p_init=0.8),
    )
    assert AutoAttack(fab=True).ensemble.members == (ce, targeted, FAB(steps=100, targets=9), square)
    assert AutoAttack(fab=False).ensemble.members == (ce, targeted, square)
    assert AutoAttack().fab == torchattacks_available()


def test_a_part_that_was_published_and_is_left_out_has_its_reason() -> None:
    assert AutoAttack(fab=True).lacks("l2") == AutoAttack(fab=True).lacks("linf") == {}
    assert AutoAttack(fab=False).lacks("l2").keys() == {"fab"}
    assert "needs torchattacks, pip install torchattacks" in AutoAttack(fab=False).lacks("linf")["fab"]


def test_who_asks_it_directly_is_warned_of_what_it_lacks() -> None:
    with pytest.warns(UserWarning, match=r"autoattack goes without fab \(it needs torchattacks, .*\): say so"):
        AutoAttack(fab=False)(lambda images: images.flatten(1), torch.zeros(1, 1, 1, 2), [1], "l2", 0.1)


@pytest.mark.parametrize("norm", ["l1", "own"])
def test_in_a_norm_that_the_standard_version_was_not_published_for_it_lacks_that_norms_own(norm: str) -> None:
    assert AutoAttack(fab=True).lacks(norm).keys() == {f"{norm} version"}


def test_an_ensemble_lacks_what_a_member_does() -> None:
    assert Ensemble(members=(Noise(), AutoAttack(fab=False))).lacks("l2").keys() == {"fab"}
    assert Ensemble(members=(Noise(),)).lacks("l2") == {}


def test_what_an_image_costs_is_the_sum_over_members_and_the_looks_between_them() -> None:
    assert AutoAttack(fab=True).passes == 201 + (1 + 9 * 201) + (1 + 9 * 301) + 5000 + 3
    assert AutoAttack(fab=False).passes == 201 + (1 + 9 * 201) + 5000 + 2


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("fab", [True, False])
def test_its_members_cope_with_few_classes(classes: int, fab: bool, net: TanhNet, images: Tensor) -> None:
    def few(shown: Tensor) -> Tensor:
        logits: Tensor = net(shown)[:, :classes]
        return logits

    if fab:
        pytest.importorskip("torchattacks")
    labels = predicted_classes(few(images).detach())
    members = (APGD(steps=5), TargetedAPGD(steps=5), *((FAB(steps=5),) if fab else ()), Square(queries=30))
    assert 5 < broken(few, Ensemble(members=members)(few, images, labels, "l2", 0.2), labels).sum() < 40


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_leaves_robust_what_torchattacks_parts_do(norm: str) -> None:
    """Part by part, because their own AutoAttack rescales Square's windows; shorter than published on either side."""
    torchattacks = pytest.importorskip("torchattacks")
    # Not the images of 5 x 4 pixels: windows of their Square do not fit in.
    net = TanhNet(draw_twin(np.random.default_rng(1), values=3 * 8 * 8)).float()
    images = torch.rand((20, 3, 8, 8), generator=generator(2))
    labels = predicted_classes(net(images).detach())
    epsilon = {"l2": 0.09, "linf": 0.013}[norm]
    common: dict[str, Any] = {"norm": {"l2": "L2", "linf": "Linf"}[norm], "eps": epsilon}
    peers = [
        torchattacks.APGD(net, steps=30, loss="ce", **common),
        torchattacks.APGDT(net, steps=30, n_classes=7, **common),
        torchattacks.FAB(net, steps=30, multi_targeted=True, n_classes=7, **common),
        torchattacks.Square(net, n_queries=500, resc_schedule=False, **common),
    ]
    parts = Ensemble(members=(APGD(steps=30), TargetedAPGD(steps=30), FAB(steps=30), Square(queries=500)))
    theirs = torch.zeros(20, dtype=torch.bool)
    with torch.random.fork_rng():
        for peer in peers:
            robust = (~theirs).nonzero().squeeze(1)
            theirs[robust] = broken(net, peer(images[robust], labels[robust]), labels[robust])
    ours = broken(net, parts(net, images, labels, norm, epsilon), labels)
    assert 5 < ours.sum() < 18
    # They begin at other draws; one image on the edge of the ball may be broken by one of the two alone.
    assert (ours != theirs).sum() <= 1
