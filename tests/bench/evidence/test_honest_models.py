"""Good networks are not accused: the digits zoo, and changes that leave a network's number what it is.

Every network of the zoo was sound at l2 0.5 on all 364 test images, with 20 steps and with 100, each with five seeds;
here are few images, so that it takes no minutes.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.request import make_request
from robustbench_bcos.model_zoo.cards import Zoo
from tests.bench.evidence.planted import After, Before, Own, evaluated, reasons, zoo
from tests.bench.tiny_zoo import measure

DIGITS = sorted(
    name for name, entry in Zoo().entries.items() if entry.card.dataset == "digits" and entry.card.by_default
)


def test_every_network_of_the_zoo_is_sound() -> None:
    flags: dict[str, Any] = {"steps": (20,), "eps": ("0.5",), "limit": 60}
    table = measure(make_request(make_config(flags | {"device": "cpu", "figures": False})))
    assert sorted(table["model"]) == DIGITS
    accused = {row["model"]: row["reasons"] for _, row in table.iterrows() if row["trust"] != "sound"}
    assert accused == {}
    assert (table["reasons"] == "").all()
    assert (table["worst_correct"] <= table["robust_correct"]).all()
    # Otherwise nothing would have been checked.
    assert (table["evidence_images"] >= 16).all()


class Mean(nn.Module):
    """An ensemble of two."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([zoo(), zoo("digits-adv-l2")])

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(dim=0)


class Dropping(nn.Module):
    """Dropout and batch norm that only training turns on."""

    def __init__(self) -> None:
        super().__init__()
        self.network = zoo()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.drop(self.network(self.norm(images)))


def without_the_first(logits: Tensor) -> Tensor:
    """The first class is the one that others are compared with."""
    return logits - logits[:, :1]


HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "log-probabilities": lambda: After(lambda z: z.log_softmax(dim=1)),
    "logits x 3": lambda: After(lambda z: 3 * z),
    "shifted logits": lambda: After(lambda z: z + 1000),
    "one logit is always 0": lambda: After(without_the_first),
    "an ensemble": Mean,
    "dropout in training": Dropping,
    "blurred": lambda: Before(lambda x: 0.8 * x + 0.2 * nn.functional.avg_pool2d(x, 3, 1, 1)),
    "mean over mirrored logits": lambda: Own(lambda network, x: network(x) + 0.1 * network(x.flip(3))),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_harms_no_attack_is_not_accused(name: str) -> None:
    row = evaluated(HARMLESS[name])
    assert (row["trust"], reasons(row)) == ("sound", set())


def test_percentages_are_not_accused_because_they_hide_nothing() -> None:
    """They pass for logits, and rightly so where they look no more robust than the logits."""
    plain, percent = evaluated(zoo), evaluated(lambda: After(lambda z: 100 * z.softmax(dim=1)))
    assert percent["trust"] == "sound"
    assert percent["worst_correct"] <= plain["worst_correct"]


@pytest.mark.usefixtures("whole_second_search")
def test_a_weak_attack_on_an_honest_network_is_repaired() -> None:
    # Steps so long that each leaves the ball on its other side; what another search breaks counts as broken.
    weak = evaluated(zoo, step_size="5", select="last")
    plain = evaluated(zoo)
    assert weak["robust_correct"] > plain["robust_correct"]
    assert weak["robust_accuracy_worst"] <= plain["robust_accuracy_worst"] + 1 / weak["images"]
