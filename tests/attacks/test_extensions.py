"""A user's own norm, loss, criterion and attack, registered at run time: everything else takes them as its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import ATTACKS, CRITERIA, LOSSES, NORMS
from robustbench_bcos.attacks.attack import AbstractAttack, Problem
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.driver import Evaluation, IterativeAttack, Rows, State
from robustbench_bcos.attacks.loss import Loss, loss_name, resolve_loss
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.square import MOVES, AbstractMoves
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.types import Classifier, Epsilon, Images, Labels
from tests.attacks.conftest import VARIANTS, TanhNet, broken, knows, radius_of, shortened

pytestmark = pytest.mark.usefixtures("registries")

ITERATIVE = {name: attack for name, attack in VARIANTS.items() if isinstance(attack, IterativeAttack)}
UNTARGETED = {name: attack for name, attack in ITERATIVE.items() if not name.startswith("apgd_targeted")}

every_iterative_attack = pytest.mark.parametrize("attack", ITERATIVE.values(), ids=ITERATIVE)


class HalfL2(AbstractNorm):
    """Half the Euclidean norm, so that an epsilon allows what twice that allows in l2."""

    def __init__(self) -> None:
        self.l2 = NORMS["l2"]

    def size(self, perturbation: Tensor) -> Tensor:
        return self.l2.size(perturbation) / 2

    def steepest_ascent(self, gradient: Tensor, iterates: Tensor | None = None) -> Tensor:
        return 2 * self.l2.steepest_ascent(gradient, iterates)

    def project_onto_ball(self, perturbation: Tensor, epsilon: Epsilon) -> Tensor:
        return self.l2.project_onto_ball(perturbation, 2 * epsilon)

    def sample(self, shape: Sequence[int], epsilon: float, generators: Sequence[torch.Generator]) -> Tensor:
        return self.l2.sample(shape, 2 * epsilon, generators)

    def diameter(self, shape: Sequence[int]) -> float:
        return self.l2.diameter(shape) / 2


class HalfL2Moves(AbstractMoves):
    """Those of l2."""

    def draws(self, shape: torch.Size) -> tuple[int, int]:
        return MOVES["l2"].draws(shape)

    def begin(self, shape: torch.Size, epsilon: float, draws: Tensor) -> Tensor:
        return MOVES["l2"].begin(shape, 2 * epsilon, draws)

    def move(self, deltas: Tensor, epsilon: float, share: float, draws: Tensor) -> Tensor:
        return MOVES["l2"].move(deltas, 2 * epsilon, share, draws)


@pytest.mark.parametrize(("name", "attack"), VARIANTS.items(), ids=VARIANTS)
def test_a_norm_of_ones_own_is_known_to_every_attack_or_refused_in_one_sentence(
    name: str, attack: AbstractAttack, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    NORMS.register("half_l2", HalfL2)  # type: ignore[arg-type] # of a class, an object is made
    if not knows(attack, "half_l2"):
        what = "FAB" if name == "fab" else "Square"
        with pytest.raises(RequestError, match=rf"^{what} knows the norms .* and not half_l2: "):
            attack(net, images, labels, "half_l2", 0.1)
        MOVES.register("half_l2", HalfL2Moves)  # type: ignore[arg-type]
        if not knows(attack, "half_l2"):
            return
    found = attack(net, images, labels, "half_l2", 0.1)
    expected = attack(net, images, labels, "l2", 0.2)
    torch.testing.assert_close(found.adversarials, expected.adversarials, rtol=0, atol=1e-9)
    for part, other in zip(found.trace, expected.trace, strict=True):
        assert torch.equal(part, other)


@pytest.mark.parametrize("attack", [attack for attack in UNTARGETED.values() if "loss" in attack.options], ids=str)
def test_a_loss_of_ones_own_has_a_name_and_is_ascended(
    attack: AbstractAttack, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    @LOSSES.registered("true_logit")
    def true_logit(logits: Tensor, labels: Tensor) -> Tensor:
        return -logits.gather(1, labels[:, None]).squeeze(1)

    assert loss_name(true_logit) == loss_name("true_logit") == "true_logit"
    one, other = (
        replace(attack, loss=loss)(net, images, labels, "l2", 0.2).adversarials  # type: ignore[call-arg]
        for loss in ("true_logit", true_logit)
    )
    assert torch.equal(one, other)
    assert (true_logit(net(one), labels) > true_logit(net(images), labels))[:-1].all()


def test_a_loss_without_a_name_cannot_be_named() -> None:
    with pytest.raises(RequestError, match=r"has no name: register it with LOSSES\.registered"):
        loss_name(lambda logits, labels: logits[:, 0])


@dataclass(frozen=True)
class OneOf(AbstractCriterion):
    """Any class of a set: ``one_of:25``. Its goals are two numbers an image."""

    classes: tuple[int, int] = (0, 1)

    @classmethod
    def parse(cls, argument: str) -> "OneOf":
        one, other = map(int, argument)
        return cls((one, other))

    def goals(self, classifier: Classifier, images: Images, labels: Labels) -> Tensor:
        return torch.tensor([self.classes]).expand(len(images), 2)

    def success(self, outputs: Tensor, goals: Tensor) -> Tensor:
        return (predicted_classes(outputs)[:, None] == goals).any(dim=1)

    def nearness(self, outputs: Tensor, goals: Tensor) -> Tensor:
        others = outputs.scatter(1, goals, -torch.inf).amax(dim=1)
        return (outputs.gather(1, goals).amax(dim=1) - others).double()

    def eligible(self, correct: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
        return correct & ~(labels[:, None] == goals).any(dim=1)

    def objective(self, loss: Loss | str) -> Callable[[Tensor, Tensor], Tensor]:
        descended = resolve_loss(loss)
        return lambda outputs, goals: -torch.minimum(*(descended(outputs, goal) for goal in goals.unbind(dim=1)))


@pytest.mark.parametrize("attack", UNTARGETED.values(), ids=UNTARGETED)
@pytest.mark.parametrize("batch_size", [2, None])
def test_a_criterion_of_ones_own_is_what_every_search_pursues(
    attack: AbstractAttack, batch_size: int | None, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    CRITERIA.register("one_of", OneOf)
    labels = predicted_classes(net(images).detach())
    epsilon = 4 * radius_of("l2")
    stronger = shortened(attack.name, **attack.options | {"steps": 20, "queries": 150, "restarts": 4})
    found = stronger(net, images, labels, "l2", epsilon, criterion="one_of:25", batch_size=batch_size)
    outputs, goals = net(found.adversarials).detach(), torch.tensor([[2, 5]]).expand(9, 2)
    success = OneOf((2, 5)).success(outputs, goals)
    assert torch.equal(OneOf((2, 5)).nearness(outputs, goals) > 0, success)
    already = OneOf((2, 5)).success(net(images).detach(), goals)
    if isinstance(attack, Noise):
        assert success.sum() >= already.sum()
    else:
        assert success.sum() > already.sum()


def test_goals_of_any_shape_reach_the_members_of_an_ensemble(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    from robustbench_bcos.attacks.searches.autoattack import Ensemble
    from robustbench_bcos.attacks.searches.pgd import PGD

    criterion = OneOf((2, 5))
    both = Ensemble(members=(Noise(), PGD(steps=20)))(net, images, labels, "l2", 0.8, criterion=criterion)
    goals = criterion.goals(net, images, labels)
    alone = PGD(steps=20)(net, images, labels, "l2", 0.8, criterion=criterion)
    reached, by_one = (criterion.success(net(found.adversarials).detach(), goals) for found in (both, alone))
    assert by_one.any()
    assert not (by_one & ~reached).any()


@dataclass
class Travelled(Rows):
    """What :class:`Walk` remembers."""

    moves: Tensor


@dataclass(frozen=True, kw_only=True)
class Walk(IterativeAttack):
    """Half the remaining way to the corner of the ball that the first gradient points to."""

    has_path = True

    def __post_init__(self) -> None:
        assert self.restarts > 0

    @property
    def moves(self) -> int:
        return 4

    def objective(self, problem: Problem) -> Loss:
        return problem.objective("margin")

    def remember(self, problem: Problem, images: Tensor, sources: Sequence[torch.Generator]) -> Travelled:
        return Travelled(moves=torch.zeros(len(images)))

    def step(self, problem: Problem, state: State, found: Evaluation) -> Tensor:
        assert isinstance(state.memory, Travelled)
        assert torch.equal(state.memory.moves.long(), state.steps), "rows of an image stay together"
        state.memory.moves = state.memory.moves + 1
        direction = problem.threat.steepest_ascent(found.gradients, state.iterates)
        return problem.threat.project(
            state.images, state.iterates + problem.threat.radius / 2 * direction - state.images
        )

    @property
    def passes(self) -> int:
        return self.restarts * (2 * self.moves + 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch_size", [2, None])
def test_an_attack_of_ones_own_is_found_by_name_and_driven_as_any_other(
    norm: str, batch_size: int | None, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    ATTACKS.register("walk", Walk)
    options: dict[str, Any] = {"restarts": 3}
    attack = ATTACKS["walk"](**options)
    assert (attack.name, attack.options, attack.stronger(), attack.effort) == ("walk", options, attack, 0)
    assert shortened("walk") == Walk(restarts=2)
    result = attack(net, images, labels, norm, 2 * radius_of(norm), batch_size=batch_size)
    success = broken(net, result, labels)
    assert 1 < success.sum() < 9
    spent = result.trace.forward_passes + result.trace.backward_passes
    assert (spent[~success] == attack.passes).all()
    assert (spent[success] < attack.passes).all()
    together = attack(net, images, labels, norm, 2 * radius_of(norm))
    torch.testing.assert_close(result.adversarials, together.adversarials, rtol=0, atol=1e-9)
