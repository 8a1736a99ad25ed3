"""Ensembles: every member, on what still stands; and AutoAttack's, against the parts torchattacks has."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.ensemble import Ensemble, standard
from robustbench_bcos.attacks.fab import FAB
from robustbench_bcos.attacks.noise import Noise
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.attacks.square import Square
from torch import Tensor, nn

from robustbench_bcos.attacks.attack import Attack, AttackResult, Trace
from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.norms import NORMS, AbstractNorm
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator
from robustbench_bcos.core.types import Classifier
from tests.attacks.conftest import TanhNet, draw_twin

RADII = {"l2": 0.2, "linf": 0.03}
every_norm = pytest.mark.parametrize("norm", RADII)


@pytest.fixture
def images() -> Tensor:
    return torch.rand((40, 3, 5, 4), generator=generator(1), dtype=torch.float64)


def fell(net: nn.Module, candidates: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return predicted_classes(net(candidates)) != labels


@dataclass
class Scripted:
    """An attack that fools the images it is told to, by their indices, and notes what it was given."""

    fooled: set[int]
    met: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        ball: AbstractNorm,
        epsilon: float,
        generator: PerImageRng | None = None,
    ) -> AttackResult:
        assert generator is not None
        self.met.append(generator.indices)
        candidates, trace = images.clone(), Trace.blank(images)
        for place, index in enumerate(generator.indices):
            candidates[place] = 1.0 if index in self.fooled else 0.5
            trace.degenerate_gradient[place] = index in self.fooled
            trace.forward_passes[place] = 100 + index
            trace.backward_passes[place] = index
        return AttackResult(candidates, trace)


def white(shown: Tensor) -> Tensor:
    """Says 1 of white images and 0 of others."""
    share = (shown == 1).double().mean((1, 2, 3))
    return torch.stack([1 - share, share], dim=1)


def test_members_meet_in_order_what_still_stands_and_their_traces_add_up() -> None:
    images = torch.zeros(5, 1, 2, 3, dtype=torch.float64)
    members = (Scripted({12}), Scripted({10, 14}), Scripted({11}), Scripted({13, 11}))
    source = PerImageRng.of(0, [10, 11, 12, 13, 14])
    labels = torch.zeros(5, dtype=torch.long)
    candidates, trace = Ensemble(members)(white, images, labels, NORMS["linf"], 1.0, source)
    met = [(10, 11, 12, 13, 14), (10, 11, 13, 14), (11, 13), (13,)]
    assert [member.met for member in members] == [[indices] for indices in met]
    assert (candidates == 1).all()
    # A pass more for every member after the first that it might have met.
    assert trace.forward_passes.tolist() == [2 * 110 + 2, 3 * 111 + 3, 112 + 1, 4 * 113 + 3, 2 * 114 + 2]
    assert trace.backward_passes.tolist() == [2 * 10, 3 * 11, 12, 4 * 13, 2 * 14]
    assert trace.degenerate_gradient.all()


def test_nobody_is_called_when_nothing_stands() -> None:
    images, labels = torch.zeros(2, 1, 2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    late = Scripted(set())
    proposal = Ensemble((Scripted({0, 1}), late))(white, images, labels, NORMS["linf"], 1.0)
    assert late.met == []
    assert (proposal.candidates == 1).all()
    assert proposal.trace.forward_passes.tolist() == [101, 102]


@every_norm
def test_it_fools_whatever_a_member_fools(norm: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    members: tuple[Attack, ...] = (
        Noise(restarts=2),
        PGD(steps=1, loss=LOSSES["margin"]),
        APGD(steps=2, targets=2),
        Square(queries=60),
    )
    ball, epsilon, source = NORMS[norm], RADII[norm], PerImageRng.of(4, range(40))
    together = fell(net, Ensemble(members)(net, images, labels, ball, epsilon, source).candidates, labels)
    apart = torch.zeros_like(together)
    for number, member in enumerate(members):
        part = source.fold_in(number)
        apart |= fell(net, member(net, images, labels, ball, epsilon, part).candidates, labels)
    assert torch.equal(together, apart)
    assert 5 < together.sum() < 40


def test_members_draw_from_streams_of_their_own(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    source = PerImageRng.of(2, range(40))
    # Too small a ball to fool: the second draw is what is proposed.
    found = Ensemble((Noise(), Noise()))(net, images, labels, NORMS["linf"], 1e-6, source).candidates
    expected = NORMS["linf"].sample(images.shape[1:], 1e-6, source.fold_in(1)(0))
    assert torch.equal(found[:-1], (images + expected).clamp(0, 1)[:-1])
    first = NORMS["linf"].sample(images.shape[1:], 1e-6, source.fold_in(0)(0))
    assert torch.equal(found[-1], (images[-1] + first[-1]).clamp(0, 1))


def test_without_a_generator_images_draw_as_indices_of_seed_zero(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    attack = Ensemble((Noise(), Square(queries=3)))
    silent = attack(net, images, labels, NORMS["l2"], 0.1)
    explicit = attack(net, images, labels, NORMS["l2"], 0.1, PerImageRng.of(0, range(40)))
    assert torch.equal(silent.candidates, explicit.candidates)


def test_an_ensemble_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble(())


# AutoAttack


def test_the_standard_ensemble_is_the_published_one() -> None:
    ce, targeted, fab, square = standard().members
    assert (ce, targeted) == (APGD(steps=100, loss=LOSSES["ce"]), APGD(steps=100, targets=9))
    assert (fab, square) == (FAB(steps=100, targets=9), Square(queries=5000, share=0.8))
    assert all(member.restarts == 1 for member in (ce, targeted, square) if not isinstance(member, FAB))
    assert standard(fab=False).members == (ce, targeted, square)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("fab", [True, False])
def test_its_members_cope_with_few_classes(classes: int, fab: bool, net: TanhNet, images: Tensor) -> None:
    def few(shown: Tensor) -> Tensor:
        return net(shown)[:, :classes]

    if fab:
        pytest.importorskip("torchattacks")
    labels = predicted_classes(few(images).detach())
    members = (APGD(steps=5), APGD(steps=5, targets=9), *((FAB(steps=5),) if fab else ()), Square(queries=30))
    candidates = Ensemble(members)(few, images, labels, NORMS["l2"], 0.2).candidates
    fooled = predicted_classes(few(candidates).detach()) != labels
    assert 5 < fooled.sum() < 40


@every_norm
def test_it_leaves_standing_what_torchattacks_parts_do(norm: str) -> None:
    """Their own AutoAttack takes 10 steps where 100 are published, and rescales Square's windows."""
    torchattacks = pytest.importorskip("torchattacks")
    # Not the images of 5 x 4 pixels: windows of their Square do not fit in.
    net = TanhNet(draw_twin(np.random.default_rng(1), values=3 * 8 * 8)).float()
    images = torch.rand((20, 3, 8, 8), generator=generator(2))
    labels = predicted_classes(net(images).detach())
    epsilon = {"l2": 0.09, "linf": 0.013}[norm]
    common: dict[str, Any] = {"norm": {"l2": "L2", "linf": "Linf"}[norm], "eps": epsilon}
    peers = [
        torchattacks.APGD(net, steps=100, loss="ce", **common),
        torchattacks.APGDT(net, steps=100, n_classes=7, **common),
        torchattacks.FAB(net, steps=100, multi_targeted=True, n_classes=7, **common),
        torchattacks.Square(net, n_queries=5000, resc_schedule=False, **common),
    ]
    theirs = torch.zeros(20, dtype=torch.bool)
    with torch.random.fork_rng():
        for peer in peers:
            standing = (~theirs).nonzero().squeeze(1)
            theirs[standing] = fell(net, peer(images[standing], labels[standing]), labels[standing])
    ours = fell(net, standard()(net, images, labels, NORMS[norm], epsilon).candidates, labels)
    assert 5 < ours.sum() < 18
    # They begin at other draws; one image on the edge of the ball may fall to one of the two alone.
    assert (ours != theirs).sum() <= 1
