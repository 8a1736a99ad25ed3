"""What every attack promises in every norm, stated once and checked for each that is registered."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.attacks import ATTACKS, LOSSES, NORMS
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult
from robustbench_bcos.attacks.driver import GradientAttack
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.autoattack import AutoAttack, Ensemble
from robustbench_bcos.attacks.searches.fab import FAB
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.rng import PerImageRng
from tests.attacks.conftest import (
    VARIANTS,
    TanhNet,
    Witness,
    broken,
    every_attack,
    radius_of,
    shortened,
)

WITH_LOSS = {name: attack for name, attack in VARIANTS.items() if "loss" in attack.options}
WITH_RESTARTS = {name: attack for name, attack in VARIANTS.items() if "restarts" in attack.options}

every_norm = pytest.mark.parametrize("norm", NORMS)
every_name = pytest.mark.parametrize("name", ATTACKS)
every_attack_with_a_loss = pytest.mark.parametrize("attack", WITH_LOSS.values(), ids=WITH_LOSS)


def near(attack: AbstractAttack) -> dict[str, Any]:
    """A matrix product may sum in another order in another batch; torchattacks' FAB works in float32."""
    return {"rtol": 0, "atol": 1e-5 if isinstance(attack, FAB) else 1e-9}


# What is returned


@every_attack
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2**-24), (torch.float64, 2**-53)])
def test_adversarials_are_images_within_the_threat(
    attack: AbstractAttack, norm: str, dtype: torch.dtype, rounding: float, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    adversarials = attack(net.to(dtype), images.to(dtype), labels, norm, radius_of(norm)).adversarials
    assert adversarials.dtype == dtype
    assert adversarials.min() >= 0
    assert adversarials.max() <= 1
    sizes = NORMS[norm].size(adversarials.double() - images.to(dtype).double())
    assert (sizes > 0).any()
    # Each pixel is rounded once, as a sum with its perturbation.
    assert (sizes <= radius_of(norm) + rounding * NORMS[norm].diameter((3, 5, 4))).all()


@every_attack
def test_an_epsilon_of_zero_returns_the_image(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    assert torch.equal(attack(net, images, labels, norm, 0.0).adversarials, images)


@every_attack
def test_batches_order_and_other_images_change_nothing(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    dataset_indices = torch.tensor([41, 7, 12, 300, 2, 8, 9, 77, 5])

    def attacked(chosen: list[int], batch_size: int | None = None) -> AttackResult:
        rng = PerImageRng.of(3, dataset_indices[chosen])
        witness = Witness(net)
        result = attack(witness, images[chosen], labels[chosen], norm, radius_of(norm), rng=rng, batch_size=batch_size)
        assert max(map(len, witness.seen)) <= (batch_size or len(chosen))
        return result

    order = [3, 8, 0, 6, 1, 2, 4, 7, 5]
    whole = attacked(order)
    for batch_size in (1, 2, 5):
        assert_same(attack, attacked(order, batch_size), whole, slice(None))
    assert_same(attack, attacked(order[:2]), whole, slice(0, 2))
    assert_same(attack, attacked(order[2:], 3), whole, slice(2, None))
    assert_same(attack, attacked(order[::-1], 4), whole, torch.arange(9).flip(0))


def assert_same(attack: AbstractAttack, found: AttackResult, whole: AttackResult, part: slice | Tensor) -> None:
    torch.testing.assert_close(found.adversarials, whole.adversarials[part], **near(attack))
    for name in whole.trace._fields:
        assert torch.equal(getattr(found.trace, name), getattr(whole.trace, name)[part]), name


@every_attack
def test_without_randomness_images_draw_as_indices_of_seed_zero(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    silent = attack(net, images, labels, norm, radius_of(norm))
    explicit = attack(net, images, labels, norm, radius_of(norm), rng=PerImageRng.of(0, range(9)))
    assert torch.equal(silent.adversarials, explicit.adversarials)


@every_attack
def test_an_attack_leaves_everything_as_it_found_it(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    net.train()
    before = [tensor.clone() for tensor in (images, labels, *net.parameters())]
    states = torch.get_rng_state(), str(np.random.get_state())
    adversarials = attack(net, images, labels, norm, radius_of(norm)).adversarials
    assert not adversarials.requires_grad
    adversarials.zero_()
    for tensor, copy in zip((images, labels, *net.parameters()), before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor.grad is None
    assert not images.requires_grad
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]


@every_attack
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_count_as_misclassified(
    attack: AbstractAttack, norm: str, poison: float, net: TanhNet, images: Tensor
) -> None:
    labels = predicted_classes(net(images).detach())

    def poisoned(shown: Tensor) -> Tensor:
        logits = net(shown).clone()
        top = F.one_hot(logits.argmax(dim=1), 7).bool()
        # In the place of the largest logit, where argmax alone would still find the label.
        return torch.where(top & (shown[:, 0, 0, 0] > 0.5)[:, None], poison, logits)

    affected = images[:, 0, 0, 0] > 0.6
    assert affected.any()
    result = attack(poisoned, images, labels, norm, radius_of(norm) / 10)
    assert result.adversarials.isfinite().all()
    assert broken(poisoned, result, labels)[affected].all()
    if attack is VARIANTS["pgd"]:
        assert torch.equal(result.adversarials[affected], images[affected])
        assert (result.trace.forward_passes[affected] == 1).all()
        assert (result.trace.backward_passes[affected] == 0).all()


# What it costs


@every_attack
def test_pass_counts_are_what_the_classifier_saw(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    witness = Witness(net)
    trace = attack(witness, images, labels, norm, radius_of(norm)).trace
    assert trace.forward_passes.sum() == sum(map(len, witness.seen))
    assert attack.uses_gradients == trace.backward_passes.any()
    assert not trace.degenerate_gradient.any()


@every_attack
def test_passes_is_what_an_image_costs_that_stays_robust_and_no_image_costs_more(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    def spent(epsilon: float) -> Tensor:
        trace = attack(net, images, labels, norm, epsilon).trace
        return trace.forward_passes + trace.backward_passes

    # Too small to break any but the last, which is misclassified from the start.
    whole = spent(1e-6)[:-1]
    # A brief search may give up what moves nowhere.
    assert (whole <= attack.passes).all() if getattr(attack, "brief", False) else (whole == attack.passes).all()
    assert (spent(radius_of(norm)) <= attack.passes).all()


# More is never less


@pytest.mark.parametrize("attack", WITH_RESTARTS.values(), ids=WITH_RESTARTS)
@every_norm
def test_more_restarts_never_raise_accuracy(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    found = [torch.zeros(9, dtype=torch.bool)]
    for restarts in (1, 2, 8):
        again = shortened(attack.name, **attack.options | {"steps": 1, "queries": 3, "restarts": restarts})
        found.append(broken(net, again(net, images, labels, norm, radius_of(norm)), labels))
        assert not (found[-2] & ~found[-1]).any()
    assert not found[-1].all()


def test_a_restart_can_break_what_the_first_search_did_not(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    once, often = (
        broken(net, PGD(steps=1, loss="bce", restarts=restarts)(net, images, labels, "l2", 0.2), labels)
        for restarts in (1, 30)
    )
    assert often.sum() > once.sum()


# The loss


@every_attack_with_a_loss
@pytest.mark.parametrize("loss", LOSSES)
@every_norm
def test_a_loss_a_trillion_times_smaller_changes_no_verdict(
    attack: AbstractAttack, norm: str, loss: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    net, images = net.float(), images.float()

    def faint(logits: Tensor, labels: Tensor) -> Tensor:
        return 1e-12 * LOSSES[loss](logits, labels)

    one, other = (
        replace(attack, loss=ascended)(net, images, labels, norm, radius_of(norm))  # type: ignore[call-arg]
        for ascended in (loss, faint)
    )
    assert torch.equal(broken(net, one, labels), broken(net, other, labels))
    assert not other.trace.degenerate_gradient.any()


@pytest.mark.parametrize("exponent", [-60, 60])
@every_attack
def test_the_scale_of_the_outputs_changes_nothing(
    attack: AbstractAttack, norm: str, exponent: int, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    if "loss" in attack.options:
        # Which is a function of the scale, unless it is one of these.
        attack = replace(attack, loss="margin")  # type: ignore[call-arg]
    plain = attack(net, images, labels, norm, radius_of(norm))
    scaled = attack(lambda shown: net(shown) * 2.0**exponent, images, labels, norm, radius_of(norm))
    assert torch.equal(broken(net, plain, labels), broken(net, scaled, labels))
    # The published DLR adds 1e-12 to its denominator.
    if not isinstance(attack, TargetedAPGD | Ensemble):
        assert torch.equal(scaled.adversarials, plain.adversarials)
    assert not scaled.trace.degenerate_gradient.any()


@every_attack_with_a_loss
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda logits, labels: logits], ids=["mean", "logits"])
def test_a_loss_that_is_not_one_number_per_image_is_refused(
    attack: AbstractAttack, loss: Any, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(RequestError, match=r'^the loss gives shape \(.*\) for \d images .*: use reduction="none"$'):
        replace(attack, loss=loss)(net, images, labels, "l2", 0.1)  # type: ignore[call-arg]


def test_a_loss_of_another_library_is_as_good_as_its_name(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    theirs = PGD(loss=nn.CrossEntropyLoss(reduction="none"))(net, images, labels, "l2", 0.2)
    torch.testing.assert_close(theirs.adversarials, PGD()(net, images, labels, "l2", 0.2).adversarials)


# Names and objects


@every_attack_with_a_loss
def test_the_name_of_a_loss_is_the_loss(attack: AbstractAttack, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    one, other = (
        replace(attack, loss=loss)(net, images, labels, "l2", 0.2).adversarials  # type: ignore[call-arg]
        for loss in ("margin", LOSSES["margin"])
    )
    assert torch.equal(one, other)


@every_attack
def test_a_threat_is_its_norm_and_its_epsilon(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    threat = Threat.of(norm, "8/255")
    expected = attack(net, images, labels, threat).adversarials
    for name, epsilon in ((norm, "8/255"), (norm.capitalize(), 8 / 255)):
        assert torch.equal(attack(net, images, labels, name, epsilon).adversarials, expected)


@every_name
@pytest.mark.parametrize(
    ("norm", "epsilon", "criterion", "message"),
    [
        ("l7", 0.5, "misclassified", "unknown norm 'l7': "),
        ("l2", None, "misclassified", "norm l2 comes without an epsilon: "),
        ("l2", -0.5, "misclassified", "eps '-0.5' must be finite and not negative: "),
        ("l2", "wide", "misclassified", "eps 'wide' is not a number: "),
        ("l2", 0.5, "astonished", "unknown criterion 'astonished': "),
        ("l2", 0.5, "misclassified:3", "criterion 'misclassified' takes no argument, got '3': "),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_sentence(
    name: str, norm: str, epsilon: Any, criterion: str, message: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        shortened(name)(net, images, labels, norm, epsilon, criterion=criterion)


# What an attack knows of itself


@pytest.mark.parametrize("attack", VARIANTS.values(), ids=VARIANTS)
def test_options_make_the_same_attack_again(attack: AbstractAttack) -> None:
    if not isinstance(attack, Ensemble):
        assert ATTACKS[attack.name](**attack.options) == attack
    assert attack.extends(attack)


PUBLISHED = {"steps": 100, "start": "random", "restarts": 1, "queries": 5000, "targets": 9}
STEPS = {"steps": 10, "step_size": 0.125, "loss": "ce", "start": "image", "restarts": 1, "select": "first_success"}


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (PGD(steps=10), STEPS),
        (PGD(steps=10, step_size="8/255"), STEPS | {"step_size": 8 / 255}),
        (APGD(loss="dlr"), {"loss": "dlr", "select": "first_success", "start": "random", "zero_index": False}),
        (TargetedAPGD(targets=3), {"loss": "targeted_dlr", "targets": 3}),
        (Square(), {"queries": 5000, "restarts": 1, "p_init": 0.8, "start": "random"}),
        (FAB(targets=3), {"steps": 100, "targets": 3, "start": "image"}),
        (Noise(restarts=3), {"restarts": 3, "start": "random"}),
        (AutoAttack(fab=True), PUBLISHED),
        (AutoAttack(fab=False), PUBLISHED | {"fab": False}),
    ],
    ids=str,
)
def test_reported_options_are_what_they_amount_to(attack: AbstractAttack, expected: dict[str, Any]) -> None:
    reported = attack.reported(Threat.of("l2", 0.5))
    assert {option: reported[option] for option in expected} == expected


def test_options_as_text_say_how_losses_and_quantities_are_written() -> None:
    attack = PGD(steps=5, loss=LOSSES["margin"], step_size=Quantity.of("8/255"))
    written = {"restarts": 1, "steps": 5, "select": "first_success", "loss": "margin", "step_size": "8/255"}
    assert attack.to_json() == written | {"start": "image"}
    assert attack.key == "pgd restarts=1 steps=5 select=first_success loss=margin step_size=8/255 start=image"
    with pytest.raises(RequestError, match="has no name"):
        PGD(loss=nn.CrossEntropyLoss(reduction="none")).to_json()


@every_name
def test_at_any_step_size_an_attack_is_itself_but_for_what_fits_one_epsilon_alone(name: str) -> None:
    attack = shortened(name, step_size=0.1)
    assert attack.at_any_step_size == shortened(name)


BUSY: dict[str, Any] = {"steps": 5, "restarts": 3, "select": "last"}


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (PGD(**BUSY, step_size=0.1, loss="margin"), PGD(steps=20, loss="margin", start="random")),
        (APGD(**BUSY, loss="dlr"), APGD(steps=20, loss="dlr")),
        (TargetedAPGD(**BUSY, targets=3), TargetedAPGD(steps=20, targets=3)),
        (Square(queries=20, restarts=3, p_init=0.4), Square(queries=80, p_init=0.4)),
        (FAB(steps=5), APGD(steps=20)),
        (AutoAttack(fab=True), APGD(steps=400)),
        (Noise(restarts=3), Noise(restarts=12)),
    ],
)
def test_the_stronger_version_has_four_times_the_effort(attack: AbstractAttack, expected: AbstractAttack) -> None:
    assert attack.stronger() == expected


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (PGD(**BUSY, step_size=0.1, loss="bce"), PGD(steps=50, restarts=3, loss="bce")),
        (PGD(steps=200), PGD(steps=200)),
        (APGD(**BUSY), APGD(steps=50, restarts=3)),
        (TargetedAPGD(**BUSY), TargetedAPGD(steps=50, restarts=3)),
        *((attack, attack) for attack in (Square(queries=20), FAB(steps=5), AutoAttack(fab=True), Noise())),
    ],
)
def test_at_full_length_an_attack_has_enough_steps(attack: AbstractAttack, expected: AbstractAttack) -> None:
    assert attack.at_full_length(50) == expected


@every_name
def test_in_full_a_search_goes_on_after_its_first_success(name: str) -> None:
    attack = shortened(name)
    selects = {"select": "best_loss"} if "select" in attack.options else {}
    assert attack.in_full() == replace(attack, **selects)


@every_name
def test_an_attack_extends_the_same_search_with_fewer_steps_and_no_other(name: str) -> None:
    attack = shortened(name)
    assert attack.effort == attack.options.get("steps", 0)
    if not isinstance(attack, GradientAttack):
        return
    longer = replace(attack, steps=7)
    assert longer.extends(attack)
    assert not attack.extends(longer)
    assert not longer.extends(replace(attack, restarts=3))
    assert not longer.extends(Noise())


@pytest.mark.parametrize("attack", VARIANTS.values(), ids=VARIANTS)
def test_what_shorter_searches_found_counts_unless_another_iterate_would(attack: AbstractAttack) -> None:
    assert attack.inherits == (attack.options.get("select", "first_success") == "first_success")


@every_name
def test_the_models_own_loss_takes_the_place_of_auto_alone(name: str) -> None:
    attack = shortened(name)
    assert attack.with_loss("bce") == attack
    if "loss" in attack.options:
        assert replace(attack, loss="auto").with_loss("bce") == replace(attack, loss="bce")  # type: ignore[call-arg]


@every_name
def test_what_a_model_has_no_room_for_is_left_out_with_the_reason(name: str) -> None:
    attack = shortened(name, targets=6)
    assert attack.left_out(7) == {}
    expected = {"targets": "6 were asked for and there are 5 wrong classes, all are aimed at"}
    assert attack.left_out(6) == (expected if "targets" in attack.options else {})


def test_controls_and_paths_are_known() -> None:
    assert [name for name in ATTACKS if ATTACKS[name].is_control] == ["noise"]
    assert {name for name in ATTACKS if ATTACKS[name].has_path} == {"pgd", "apgd"}
    assert {name for name in ATTACKS if not ATTACKS[name].uses_gradients} == {"noise", "square"}
