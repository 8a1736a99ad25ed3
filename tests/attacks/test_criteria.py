"""When an output is a success, and how attacks go about a criterion other than misclassification."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustbench_bcos.attacks import ATTACKS, CRITERIA, NORMS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.criteria.misclassified import Misclassified
from robustbench_bcos.attacks.criteria.targeted import Targeted
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import generator
from tests.attacks.conftest import TanhNet, Witness, knows, radius_of, shortened

CASES = {"misclassified": Misclassified(), "targeted:3": Targeted(3), "targeted:least_likely": Targeted()}

every_norm = pytest.mark.parametrize("norm", NORMS)
every_criterion = pytest.mark.parametrize("text", CASES)


# The question


@every_criterion
def test_a_criterion_prints_as_it_is_written(text: str) -> None:
    assert make_criterion(text) == CASES[text]
    assert str(make_criterion(text)) == text
    assert make_criterion(CASES[text]) is CASES[text]


def test_every_criterion_is_among_the_cases() -> None:
    assert set(CRITERIA) == {case.name for case in CASES.values()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targeted", "target '' is not a class"),
        ("targeted:-1", "target '-1' is not a class"),
        ("targeted:³", "target '³' is not a class"),
        ("targeted:cat", "target 'cat' is not a class: give the number of one, or least_likely"),
        ("misclassified:3", "'misclassified' takes no argument, got '3'"),
        ("target:3", "did you mean 'targeted'"),
    ],
)
def test_a_criterion_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_criterion(text)


@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "noise"])
def test_a_class_that_the_model_does_not_have_is_refused(
    name: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    for criterion in CASES.values():
        criterion.check(4)
    with pytest.raises(RequestError, match="target 7 is not a class of this model: choose from 0 to 6"):
        shortened(name)(net, images, labels, "l2", 0.1, criterion="targeted:7")


numbers = st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1.0, torch.inf, -torch.inf, torch.nan])
rows = st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=1, max_size=4)
logits = rows.map(lambda values: torch.tensor(values, dtype=torch.float64))


@every_criterion
@given(outputs=logits, data=st.data())
@settings(max_examples=200, deadline=None)
def test_success_nearness_and_eligibility_agree(text: str, outputs: Tensor, data: st.DataObject) -> None:
    criterion, count = CASES[text], len(outputs)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    goals = criterion.goals(lambda images: images.flatten(1), outputs.view(count, 5, 1, 1), labels)
    success, nearness = criterion.success(outputs, goals), criterion.nearness(outputs, goals)
    finite = outputs.isfinite().all(dim=1)
    assert not ((nearness > 0) & ~success).any()
    assert not (success & finite & (nearness < 0)).any()
    correct = criterion.correct(outputs, labels)
    eligible = criterion.eligible(correct, labels, goals)
    assert torch.equal(correct, predicted_classes(outputs) == labels)
    assert not (eligible & (success | ~correct)).any()
    assert torch.equal(success[~finite], torch.full_like(success[~finite], text == "misclassified"))


def test_an_image_is_eligible_where_the_model_is_right_and_the_aim_is_another_class() -> None:
    outputs = torch.eye(4)[[0, 1, 3, 3]]
    labels = torch.tensor([0, 2, 3, 1])
    right, threes = Misclassified().correct(outputs, labels), torch.full_like(labels, 3)
    assert Misclassified().eligible(right, labels, labels).tolist() == [True, False, True, False]
    assert Targeted(3).eligible(right, labels, threes).tolist() == [True, False, False, False]
    assert Targeted(3).success(outputs, threes).tolist() == [False, False, True, True]
    assert Targeted(3).nearness(outputs, threes).tolist() == [-1, -1, 1, 1]


# Goals


def test_the_least_likely_class_is_that_of_the_smallest_other_logit(
    net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    goals = Targeted().goals(net, images, labels)
    outputs = net(images).detach()
    for output, label, goal in zip(outputs, labels.tolist(), goals.tolist(), strict=True):
        ranked = [index for index in output.argsort().tolist() if index != label]
        assert goal == ranked[0]
    two = Targeted().goals(lambda shown: net(shown)[:, :2], images, labels % 2)
    assert torch.equal(two, 1 - labels % 2)
    assert torch.equal(Targeted(3).goals(net, images, labels), torch.full_like(labels, 3))


@every_criterion
def test_goals_do_not_depend_on_the_batch(text: str, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    goals = CASES[text].goals(net, images, labels)
    order = [3, 8, 0]
    assert torch.equal(CASES[text].goals(net, images[order], labels[order]), goals[order])
    witness = Witness(net)
    parts = PGD(steps=3)(witness, images, labels, "l2", 0.3, criterion=text, batch_size=2)
    # What the goals are is asked in batches, too.
    assert max(map(len, witness.seen)) == 2
    whole = PGD(steps=3)(net, images, labels, "l2", 0.3, criterion=text)
    torch.testing.assert_close(parts.adversarials, whole.adversarials, rtol=0, atol=1e-12)


def test_targets_may_be_one_for_each_image_one_for_all_or_how_one_is_chosen(
    net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    def found(**given: Any) -> Tensor:
        return PGD(steps=5)(net, images, labels, "l2", 0.3, **given).adversarials

    every = Targeted().goals(net, images, labels)
    expected = found(criterion="targeted:least_likely")
    for targets in (every, every.tolist(), every.numpy(), "least_likely", "least-likely"):
        assert torch.equal(found(targets=targets), expected)
    for one in (3, np.int64(3), np.array(3), torch.tensor(3)):
        assert torch.equal(found(targets=one), found(criterion="targeted:3"))
    assert torch.equal(found(targets=3), found(targets=torch.full((9,), 3)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": [1, 2]}, "targets must be one class for each of the 9 images, got shape .2,.: give 9 whole"),
        ({"targets": 7}, "target 7 is not a class of this model: choose from 0 to 6"),
        ({"targets": [7] * 9}, "classes from 0 to 6 for this model, got 7"),
        ({"targets": -1}, "target '-1' is not a class"),
        ({"targets": torch.tensor(2.5)}, "target '2.5' is not a class"),
        ({"targets": "worst"}, "target 'worst' is not a class"),
        ({"targets": 3, "criterion": "targeted:2"}, "targets and criterion targeted:2 exclude each other"),
    ],
)
def test_targets_that_are_none_are_refused(
    given: dict[str, Any], message: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(RequestError, match=message):
        PGD(steps=2)(net, images, labels, "l2", 0.3, **given)


# The search


@every_norm
@pytest.mark.parametrize("text", ["targeted:2", "targeted:least_likely"])
@pytest.mark.parametrize("attack", [PGD(steps=20, loss=loss) for loss in ("ce", "margin")] + [APGD(steps=100)], ids=str)
def test_on_a_linear_model_a_target_is_reached_from_its_distance_on(
    attack: AbstractAttack, text: str, norm: str
) -> None:
    """Classes 0 and 1 have the same weights, so that the way to class 2 is straight; class 1 is never reached."""
    weights = torch.randn(3, 60, generator=generator(3), dtype=torch.float64)
    weights[1] = weights[0]
    towards = (weights[2] - weights[0]).view(1, 3, 5, 4)
    dual_size = float((towards * NORMS[norm].steepest_ascent(towards)).sum())
    distance = 0.25 * radius_of(norm)
    offset = torch.tensor([distance * dual_size, distance * dual_size / 2, 0.0], dtype=torch.float64)

    def linear(shown: Tensor) -> Tensor:
        return (shown.flatten(1) - 0.5) @ weights.T + offset

    # Grey, so that no pixel is clipped.
    images, labels = torch.full((2, 3, 5, 4), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    # Auto-PGD finds out how many pixels to move where the norm is sparse, which takes a while.
    for factor in (0.98, 1.1 if NORMS[norm].sparse else 1.02):
        result = attack(linear, images, labels, norm, factor * distance, criterion=text)
        expected = 2 if factor > 1 else 0
        assert predicted_classes(linear(result.adversarials)).tolist() == [expected] * 2
    result = attack(linear, images, labels, norm, 4 * distance, criterion="targeted:1")
    assert predicted_classes(linear(result.adversarials)).tolist() == [0, 0]


@every_norm
def test_searches_reach_more_targets_than_noise(norm: str, net: TanhNet, images: Tensor) -> None:
    labels, epsilon = predicted_classes(net(images).detach()), 2.5 * radius_of(norm)

    def reached(attack: AbstractAttack) -> int:
        count = 0
        for target in range(0, 7, 2):
            found = attack(net, images, labels, norm, epsilon, criterion=f"targeted:{target}")
            success = predicted_classes(net(found.adversarials).detach()) == target
            # Another class than the target is no success, however wrong.
            count += int((success & (labels != target)).sum())
        return count

    by_noise = reached(Noise(restarts=20))
    for attack in (PGD(steps=20), APGD(steps=20), Square(queries=200)):
        if knows(attack, norm):
            assert reached(attack) > by_noise + 5


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_aims_at_every_wrong_class_refuses_a_target(
    name: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    """It would move away from the target, which it would take for the label."""
    attack = shortened(name)
    if name not in ("apgd_targeted", "fab", "autoattack"):
        attack.check(NORMS["l2"], Targeted(3))
        return
    message = "chooses its own targets and cannot pursue targeted:3: choose another attack"
    with pytest.raises(RequestError, match=message):
        attack(net, images, labels, "l2", 0.1, criterion="targeted:3")
    with pytest.raises(RequestError, match=message):
        ATTACKS[name]().check(NORMS["l2"], Targeted(3))
    attack.check(NORMS["l2"], Misclassified())
