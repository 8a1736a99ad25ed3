"""What a number is attacked with a second time: something stronger, something else, and its cost as it is announced."""

from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.noise import Noise
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.attacks.square import Square
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.config import make_config
from robustbench_bcos.bench.evidence.checks import checks_of
from robustbench_bcos.bench.evidence.searches import FULL, QUICK, TARGETS, SecondSearch

SEARCHED = ("unbounded_attack", "noise", "black_box", "more_steps", "other_losses")


def cell(**flags: Any) -> Cell:
    (made,) = make_cells(make_config(flags), ["net"])
    return made


def stubborn(images: Tensor) -> Tensor:
    """Right about everything, with a gradient: nothing leaves before its time."""
    faint = 1e-3 * images.flatten(1).sum(dim=1, keepdim=True)
    return torch.cat([5 + faint, *(share * faint for share in (-1.0, -0.5, 0.2, 0.3, -0.1, 0.4))], dim=1)


def spent(search: SecondSearch) -> Tensor:
    """Passes of each of three images by the trace."""
    images, labels = torch.full((3, 3, 4, 5), 0.5), torch.zeros(3, dtype=torch.long)
    passes = torch.zeros(3, dtype=torch.long)
    for attack in search.attacks:
        _, trace = attack(stubborn, images, labels, NORMS["l2"], 0.3)
        passes += trace.forward_passes + trace.backward_passes
    return passes


def test_every_check_that_attacks_has_a_search_in_both_kinds_of_evidence() -> None:
    assert set(QUICK) == set(FULL) == set(SEARCHED)
    assert set(SEARCHED) < {check.name for check in checks_of("quick", "cell")}


def test_no_quick_search_may_spend_more_than_the_attack_did() -> None:
    assert all(0 < share.part <= 1 for share in QUICK.values())
    assert FULL["black_box"] != QUICK["black_box"]


@pytest.mark.parametrize(
    "flags",
    [
        {"steps": (3,)},
        {"steps": (3,), "restarts": (2,), "start": "random", "loss": ("margin",)},
        {"steps": (3,), "count": "last"},
        {"attack": ("apgd",), "steps": (4,)},
        {"attack": ("apgd",), "steps": (4,), "loss": ("dlr",)},
        {"attack": ("noise",), "restarts": (3,)},
        {"attack": ("square",), "queries": 30},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_costs_an_image_that_withstands_what_it_announces(name: str, flags: dict[str, Any]) -> None:
    attacked = cell(**flags)
    search = QUICK[name].search(attacked, attacked.loss_of("ce"))
    (passes,) = set(spent(search).tolist())
    # A targeted search announces a pass or two more than it takes for each of its targets.
    slack = 2 * TARGETS if name == "other_losses" else 0
    assert search.passes - slack <= passes <= search.passes


def test_a_search_along_gradients_is_repeated_with_four_times_the_steps_from_a_random_start() -> None:
    attacked = cell(steps=(7,), step_size="0.1", count="last", restarts=(3,), loss=("margin",))
    search = QUICK["more_steps"].search(attacked, "margin")
    assert search.attacks == [PGD(steps=28, step_size=None, loss=LOSSES["margin"], start="random", count="any")]


@pytest.mark.parametrize(
    ("flags", "longer"),
    [
        ({"attack": ("noise",), "restarts": (3,)}, Noise(restarts=12)),
        ({"attack": ("square",), "queries": 30}, Square(queries=120)),
        ({"attack": ("apgd",), "steps": (5,), "loss": ("dlr",)}, APGD(steps=20, loss=LOSSES["dlr"])),
        (
            {"attack": ("apgd",), "steps": (5,), "loss": ("targeted_dlr",), "targets": 4},
            APGD(steps=20, loss=LOSSES["ce"], targets=4),
        ),
        ({"attack": ("autoattack",)}, APGD(steps=400, loss=LOSSES["ce"])),
    ],
    # Not by what they are called: the address of a loss differs from one worker to the next.
    ids=["noise", "square", "apgd", "targeted", "autoattack"],
)
def test_other_attacks_are_repeated_with_four_times_what_they_have(flags: dict[str, Any], longer: Any) -> None:
    attacked = cell(**flags)
    assert QUICK["more_steps"].search(attacked, attacked.loss_of("ce")).attacks == [longer]


@pytest.mark.parametrize(
    ("own", "rival"),
    [("ce", "margin"), ("bce", "margin"), ("dlr", "margin"), ("targeted_dlr", "margin"), ("margin", "ce")],
)
def test_another_loss_is_another_loss_and_wrong_classes_are_aimed_at(own: str, rival: str) -> None:
    untargeted, other = QUICK["other_losses"].search(cell(steps=(50,)), own).attacks
    assert untargeted == APGD(steps=50, loss=LOSSES[rival])
    assert other == (APGD(steps=50, loss=LOSSES["ce"]) if own == "targeted_dlr" else APGD(steps=10, targets=TARGETS))


def test_few_steps_are_not_refuted_with_few_steps() -> None:
    few = cell(steps=(2,), step_size="0.001", count="last")
    assert [attack.steps for attack in QUICK["other_losses"].search(few, "ce").attacks] == [20, 4]
    (unbounded,) = QUICK["unbounded_attack"].search(few, "ce").attacks
    assert (unbounded.steps, unbounded.step_size, unbounded.count) == (20, None, "any")


@pytest.mark.parametrize(("steps", "queries"), [(1, 100), (50, 100), (80, 160), (5000, 1000)])
def test_a_quick_black_box_has_about_as_many_queries_as_the_attack_has_passes(steps: int, queries: int) -> None:
    search = QUICK["black_box"].search(cell(steps=(steps,)), "ce")
    assert search == SecondSearch([Square(queries=queries)], queries)
    assert FULL["black_box"].search(cell(steps=(steps,)), "ce") == SecondSearch([Square(queries=1000)], 1000)
