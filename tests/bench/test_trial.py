"""Searches on a twin, judged on the model: a disagreement is searched again where it counts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import LOSSES, NORMS
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.bench.trial import try_images
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import find_models

INDICES = (5, 2, 9, 4)
IMAGES = torch.full((4, 3, 2, 2), 0.5)
LABELS = torch.zeros(4, dtype=torch.long)


class Side(nn.Module):
    """Class 1 where the mean of an image exceeds a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        ahead = images.flatten(1).mean(dim=1) - self.threshold
        return torch.stack([-ahead, ahead], dim=1)


def tried(model: nn.Module, twin: nn.Module, epsilon: float = 0.2, **settings: Any) -> Any:
    attack = PGD(**{"steps": 4, "step_size": 0.1, **settings})
    threat = AttackTarget(model, IMAGES, twin)
    source = PerImageRng.of(0, INDICES)
    return try_images(attack, threat, LABELS, NORMS["linf"], epsilon, source, subject="cell")


def test_a_candidate_that_fools_the_twin_alone_is_searched_again_on_the_model() -> None:
    # The twin falls at 0.55, and its adversarial of 0.6 is still below the model's threshold.
    result = tried(Side(0.65), Side(0.55))
    assert result.verdicts.predictions.tolist() == [1, 1, 1, 1]
    assert result.adversarials.flatten(1).mean(dim=1).tolist() == pytest.approx([0.7] * 4)
    # Two looks on the twin, and three on the model.
    assert result.trace.forward_passes.tolist() == [5] * 4
    assert result.verdicts.sizes.tolist() == pytest.approx([0.2] * 4)
    assert torch.equal(result.verdicts.logits, Side(0.65)(result.adversarials))


def test_only_what_is_disputed_is_searched_again() -> None:
    class Doubtful(Side):
        """Sees the last image brighter than it is."""

        def forward(self, images: Tensor) -> Tensor:
            if len(images) == 4:
                images = images + torch.tensor([0.0, 0.0, 0.0, 0.08])[:, None, None, None]
            return super().forward(images)

    model = Side(0.65)
    result = tried(model, Doubtful(0.65), epsilon=0.12)
    assert result.verdicts.predictions.tolist() == [0, 0, 0, 0]
    # Judged together, then never more than the one image.
    assert model.seen[0] == 4
    assert set(model.seen[1:]) <= {1}


def test_where_both_agree_the_model_is_asked_once() -> None:
    model, twin = Side(0.65), Side(0.65)
    result = tried(model, twin)
    assert result.verdicts.predictions.tolist() == [1, 1, 1, 1]
    assert model.seen == [4]
    assert result.trace.forward_passes.tolist() == [3] * 4


def test_a_model_that_is_its_own_twin_is_not_asked_again() -> None:
    model = Side(0.95)
    tried(model, model)
    # Four steps and a last look, and the judge.
    assert model.seen == [4] * 6


def test_a_second_search_draws_what_the_image_would_have_drawn() -> None:
    class Late(Side):
        """Sees everything a little brighter, so that it falls before the model does."""

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + 0.02)

    settings: dict[str, Any] = {"start": "random", "steps": 3, "step_size": 0.03, "restarts": 2}
    alone = tried(Side(0.56), Side(0.56), epsilon=0.1, **settings)
    disputed = tried(Side(0.56), Late(0.56), epsilon=0.1, **settings)
    # What the model itself was searched for falls at the same adversarials.
    again = (disputed.trace.forward_passes > alone.trace.forward_passes).nonzero().squeeze(1)
    assert len(again)
    assert torch.equal(disputed.adversarials[again], alone.adversarials[again])


@pytest.mark.parametrize("name", sorted(name for name in Zoo().entries if name.startswith("digits-")))
def test_the_fast_way_gives_every_digit_the_verdict_of_the_slow_one(name: str) -> None:
    """A pool that refills, on the folded twin, beside small batches on the model itself."""
    model = make_fast_copy(find_models(name, Zoo())[0].load())
    batch = EvalSubset.of(open_dataset("digits", "test")).batch(0, 364)
    loss = LOSSES[model.loss]

    def fallen(twin: nn.Module, places: Tensor, width: int | None) -> Tensor:
        attack, labels = PGD(steps=6, loss=loss, width=width), batch.labels[places]
        threat = AttackTarget(model.classifier, batch.images[places], twin)
        source = PerImageRng.of(0, places)
        tried = try_images(attack, threat, labels, NORMS["l2"], 0.5, source, subject="cell", width=width)
        return tried.verdicts.predictions != labels

    everyone = torch.arange(364)
    slow = torch.cat([fallen(model.classifier, places, None) for places in everyone.split(32)])
    assert torch.equal(fallen(model.attack_model, everyone, 100), slow)
    assert 0 < slow.sum() < 364
