"""What a number is attacked with a second time: something stronger, something else, and its cost as it is announced."""

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

import robustbench_bcos as rb
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.refined import Refined
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.autoattack import AutoAttack
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck, checks_of
from robustbench_bcos.bench.evidence.checks import other_losses
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset

pytestmark = pytest.mark.usefixtures("whole_second_search")
every_search = pytest.mark.parametrize("check", checks_of("quick", AbstractSearchCheck), ids=lambda check: check.name)

ATTACKS_OF_CELLS = {
    "pgd": PGD(steps=3),
    "pgd, restarts": PGD(steps=3, restarts=2, start="random", loss="margin"),
    "pgd, last": PGD(steps=3, select="last"),
    "apgd": APGD(steps=4),
    "apgd, dlr": APGD(steps=4, loss="dlr"),
    "noise": Noise(restarts=3),
    "square": Square(queries=30),
}


def attacks(name: str, attack: AbstractAttack, *, full: bool = False) -> list[Any]:
    check: Any = CHECKS[name]
    return list(check.attacks(attack, full=full))


def stubborn(images: Tensor) -> Tensor:
    """Right about everything, with a gradient: nothing leaves before its time."""
    faint = 1e-3 * images.flatten(1).sum(dim=1, keepdim=True)
    shares = torch.linspace(-1, 0.5, 10)
    return torch.cat([5 + faint, shares * faint], dim=1)


@every_search
def test_no_quick_search_may_spend_more_than_the_attack_did(check: AbstractSearchCheck) -> None:
    assert 0 < check.budget <= 1


@pytest.mark.parametrize("attack", ATTACKS_OF_CELLS.values(), ids=ATTACKS_OF_CELLS)
@every_search
def test_a_search_costs_a_robust_image_what_it_announces(check: AbstractSearchCheck, attack: AbstractAttack) -> None:
    images, labels = torch.full((3, 3, 4, 5), 0.5), torch.zeros(3, dtype=torch.long)
    searches, passes = check.attacks(attack, full=False), torch.zeros(3, dtype=torch.long)
    for search in searches:
        _, trace = search(stubborn, images, labels, "l2", 0.3)
        passes += trace.forward_passes + trace.backward_passes
    announced = sum(search.passes for search in searches)
    if any(isinstance(search, Refined) for search in searches):
        assert 0 < passes.max() < announced
    else:
        assert set(passes.tolist()) == {announced}


@every_search
def test_full_evidence_announces_what_its_searches_cost(check: AbstractSearchCheck) -> None:
    attack = PGD(steps=7)
    searches = chain(check.attacks(attack, full=True), check.deeper(attack))
    assert check.passes(attack) == sum(search.passes for search in searches) > 0


@pytest.mark.parametrize(
    ("attack", "longer"),
    [
        (
            PGD(steps=7, step_size="0.1", select="last", restarts=3, loss="margin"),
            PGD(steps=28, loss="margin", start="random"),
        ),
        (Noise(restarts=3), Noise(restarts=12)),
        (Square(queries=30), Square(queries=120)),
        (APGD(steps=5, loss="dlr"), APGD(steps=20, loss="dlr")),
        (TargetedAPGD(steps=5, targets=4), TargetedAPGD(steps=20, targets=4)),
        (AutoAttack(fab=False), APGD(steps=400)),
    ],
    ids=["pgd", "noise", "square", "apgd", "apgd_targeted", "autoattack"],
)
def test_an_attack_is_repeated_with_four_times_what_it_has(attack: AbstractAttack, longer: AbstractAttack) -> None:
    assert attacks("more_steps", attack) == [longer]


@pytest.mark.parametrize("attack", [PGD(steps=50), PGD(steps=1, loss="margin"), TargetedAPGD(steps=50), Noise()])
def test_every_attack_is_followed_by_targeted_searches_first_short_and_then_deep(attack: AbstractAttack) -> None:
    check: Any = CHECKS["other_losses"]
    assert check.attacks(attack, full=False) == check.attacks(attack, full=True) == other_losses.SCREEN
    brief, at_length = other_losses.SCREEN[:1], check.deeper(attack)
    assert sum(search.passes for search in brief) < sum(search.passes for search in at_length)
    assert all(any(isinstance(search.search, TargetedAPGD) for search in level) for level in (brief, at_length))


def test_the_screen_looks_beyond_the_classes_that_are_nearest_by_their_linear_distance() -> None:
    """What 100 steps of PGD leave standing and AutoAttack does not; three targets left all of these as robust."""
    batch = EvalSubset(Digits("test"), (60, 120, 149, 256, 361)).batch(0, 5)
    model = rb.load_model("digits-bcos-b2.5")
    found = other_losses.SCREEN[0](model, batch.images, batch.labels, "linf", 0.1)
    assert (predicted_classes(model(found.adversarials)) != batch.labels).all()


def test_few_steps_are_not_refuted_with_few_steps() -> None:
    own, margin = attacks("unbounded_attack", PGD(steps=2, step_size="0.001", select="last"))
    assert (own, margin) == (PGD(steps=20), PGD(steps=20, loss="margin"))


@pytest.mark.parametrize(("steps", "queries"), [(1, 100), (50, 100), (80, 160), (5000, 1000)])
def test_a_quick_black_box_has_about_as_many_queries_as_the_attack_has_passes(steps: int, queries: int) -> None:
    attack = PGD(steps=steps)
    assert attacks("black_box", attack) == [Square(queries=queries)]
    assert attacks("black_box", attack, full=True) == [Square(queries=1000)]


@pytest.mark.parametrize(("attack", "along"), [(PGD(), True), (APGD(), True), (Square(), False), (Noise(), False)])
def test_a_longer_search_is_along_gradients_where_the_attack_is(attack: AbstractAttack, along: bool) -> None:
    said = {check.name: check.along_gradients(attack) for check in checks_of("full", AbstractSearchCheck)}
    assert said == dict.fromkeys(said, False) | {"more_steps": along, "other_losses": True}
