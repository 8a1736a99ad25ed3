"""Attacks on explanations as they are judged: the prediction is asked again, as it is and in 256 levels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.fooling import Fooled, Fooling
from robustbench_bcos.bench.rounding import nearest_level
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.model_zoo.bcos.layers import BcosLinear
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import own_model

COUNT = 4
IMAGES = nearest_level(0.2 + 0.6 * torch.rand((COUNT, 1, 4, 4), generator=torch.Generator().manual_seed(0)))
LABELS = torch.zeros(COUNT, dtype=torch.long)


class Aligned(nn.Module):
    """A B-cos layer whose map of class 0 is the image up to scale; class 1 wins where ``differs`` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.layer = BcosLinear(16, 2)
        with torch.no_grad():
            self.layer.linear.weight[0] = 1
            self.layer.linear.weight[1] = torch.tensor([1.0, -1.0] * 8)

    def forward(self, images: Tensor) -> Tensor:
        # Image by image, so that no sum depends on the batch.
        logits = torch.cat([self.layer(one) for one in self.flat(images).split(1)])
        return torch.where(self.differs(images)[:, None], logits.flip(1), logits)

    def differs(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), dtype=torch.bool)


class BetweenLevels(Aligned):
    """Of another class in 256 levels, farther than this from the clean image."""

    def __init__(self, farthest: float) -> None:
        super().__init__()
        self.farthest = farthest

    def differs(self, images: Tensor) -> Tensor:
        as_stored = ((images * 255 - (images * 255).round()).abs() < 1e-3).flatten(1).all(dim=1)
        distance = (images[:, None] - IMAGES).flatten(2).norm(dim=2).amin(dim=1)
        return as_stored & (distance > self.farthest)


def fooled(
    network: nn.Module, attack: Any, norm: str = "l2", epsilon: float = 0.5, goal: str = "away", images: Tensor = IMAGES
) -> Fooled:
    model = own_model("net", freeze(network))
    fooling = Fooling(model=model, method="dynamic_weights", softened=False, band=None, batch_size=3)
    rng = PerImageRng.of(0, range(COUNT))
    target = fooling.target(
        goal, Threat.of(norm, epsilon), images=images, labels=LABELS, others=images.flip(0), rng=rng
    )
    return fooling.fool(attack, target, subject="a test")


@pytest.mark.parametrize("attack", [PGD(steps=40), APGD(steps=40)], ids=["pgd", "apgd"])
def test_the_map_of_an_aligned_layer_turns_as_far_as_its_image(attack: Any) -> None:
    found = fooled(Aligned(), attack)
    sines = 0.5 / IMAGES.flatten(1).norm(dim=1).double()
    assert torch.allclose(found.left, (1 + (1 - sines**2).sqrt()) / 2, atol=5e-4)
    assert found.kept.all()
    assert torch.allclose(found.pictures * 255, (found.pictures * 255).round(), atol=1e-3)
    assert ((found.pictures - IMAGES).flatten(1).norm(dim=1) <= 0.5).all()


def test_another_image_is_reached_where_it_is_near_enough() -> None:
    found = fooled(Aligned(), PGD(steps=40), epsilon=4, goal="target")
    assert (found.left < 1e-3).all()


@pytest.mark.parametrize(("farthest", "length"), [(0.0, 0.0), (0.15, 0.25), (0.3, 0.5), (0.42, 0.75), (0.6, 1.0)])
def test_a_picture_whose_class_is_another_when_it_is_stored_is_no_candidate(farthest: float, length: float) -> None:
    found = fooled(BetweenLevels(farthest), APGD(steps=20))
    distances = (found.pictures - IMAGES).flatten(1).norm(dim=1)
    assert distances.tolist() == pytest.approx([0.5 * length] * COUNT, abs=0.01)
    assert found.kept.tolist() == [length > 0] * COUNT
    if not length:
        assert found.left.tolist() == pytest.approx([1.0] * COUNT)


def test_what_a_file_makes_of_a_picture_between_levels_is_asked_too() -> None:
    found = fooled(BetweenLevels(0.001), PGD(steps=2), epsilon=0.004, images=IMAGES + 0.5 / 255)
    assert not found.kept.any()
