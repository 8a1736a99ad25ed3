"""Attacks on a fast copy, judged on the model: a disagreement is searched again where it counts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.bench.target import AttackTarget, make_target
from robustbench_bcos.bench.trial import Judged, attack_and_judge
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


def tried(
    model: nn.Module,
    fast_copy: nn.Module,
    epsilon: float = 0.2,
    *,
    criterion: str = "misclassified",
    images: Tensor = IMAGES,
    **settings: Any,
) -> Judged:
    judged = make_criterion(criterion)
    target = AttackTarget(
        classifier=model,
        attack_model=fast_copy,
        images=images,
        labels=LABELS,
        goals=judged.goals(model, images, LABELS),
        threat=Threat.of("linf", epsilon),
        criterion=judged,
        rng=PerImageRng.of(0, INDICES),
    )
    return attack_and_judge(PGD(**{"steps": 4, "step_size": 0.1, **settings}), target, subject="cell")


def test_an_example_that_fools_the_fast_copy_alone_is_searched_again_on_the_model() -> None:
    # The copy is broken at 0.55, and its adversarial example of 0.6 is still below the model's threshold.
    result = tried(Side(0.65), Side(0.55))
    assert result.verdicts.predictions.tolist() == [1, 1, 1, 1]
    assert result.adversarials.flatten(1).mean(dim=1).tolist() == pytest.approx([0.7] * 4)
    # Two forward passes of the copy, and three of the model.
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
    # Judged together, then never more than the one image, and in the end together in 256 levels.
    assert (model.seen[0], model.seen[-1]) == (4, 4)
    assert set(model.seen[1:-1]) <= {1}


def test_where_both_agree_the_model_is_asked_once() -> None:
    model = Side(0.65)
    result = tried(model, Side(0.65))
    assert result.verdicts.predictions.tolist() == [1, 1, 1, 1]
    assert model.seen == [4]
    assert result.trace.forward_passes.tolist() == [3] * 4


def test_a_model_without_a_fast_copy_is_not_asked_again() -> None:
    model = Side(0.95)
    tried(model, model)
    # Four steps and a last look, and the judge, who looks at what stands in 256 levels, too.
    assert model.seen == [4] * 7


class Mending(Side):
    """Right about whatever no picture holds."""

    def forward(self, images: Tensor) -> Tensor:
        levels = images * 255
        off = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(dim=1)
        logits = super().forward(images)
        return torch.where(off[:, None], logits - torch.tensor([0.0, 1.0]), logits)


def test_what_stands_is_judged_in_256_levels_too() -> None:
    mending = Mending(0.6)
    result = tried(mending, mending, epsilon=0.1499, images=IMAGES * 254 / 255)
    assert result.rounded.tolist() == [True] * 4
    assert result.verdicts.success.tolist() == [True] * 4
    assert result.verdicts.predictions.tolist() == [1] * 4
    assert torch.equal(result.verdicts.logits, mending(result.adversarials))
    assert (result.verdicts.sizes <= 0.1499).all()
    assert not tried(Side(0.6), Side(0.6), epsilon=0.1499).rounded.any()


def test_a_second_search_draws_what_the_image_would_have_drawn() -> None:
    class Late(Side):
        """Sees everything a little brighter, so that it is broken before the model is."""

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + 0.02)

    settings: dict[str, Any] = {"start": "random", "steps": 3, "step_size": 0.03, "restarts": 2}
    alone = tried(Side(0.56), Side(0.56), epsilon=0.1, **settings)
    disputed = tried(Side(0.56), Late(0.56), epsilon=0.1, **settings)
    # What was searched for on the model itself is broken by the same images.
    again = (disputed.trace.forward_passes > alone.trace.forward_passes).nonzero().squeeze(1)
    assert len(again)
    assert torch.equal(disputed.adversarials[again], alone.adversarials[again])


@pytest.mark.parametrize(
    "asked", [{"eps": "0.5"}, {"eps": "2", "criterion": "targeted", "target": "least_likely"}], ids=["any", "targeted"]
)
@pytest.mark.parametrize("name", sorted(name for name in Zoo().entries if name.startswith("digits-")))
def test_the_fast_way_gives_every_digit_the_verdict_of_the_slow_one(name: str, asked: dict[str, str]) -> None:
    """A batch that refills, on the folded copy, next to small batches on the model itself."""
    model = make_fast_copy(find_models(name, Zoo())[0].load())
    batch = EvalSubset.of(open_dataset("digits", "test")).batch(0, 364)
    (cell,) = make_cells(make_config({"norm": "l2", "steps": 6} | asked), [name])
    attack = cell.attack.with_loss(model.loss)
    fast = make_target(model, cell, batch.images, batch.labels, seed=0, indices=range(364))
    parts = torch.arange(364).split(32)
    slow = [attack_and_judge(attack, fast.slow.select(part), subject="cell").verdicts for part in parts]
    broken = torch.cat([part.success for part in slow])
    assert torch.equal(attack_and_judge(attack, fast, subject="cell", batch_size=100).verdicts.success, broken)
    assert 0 < broken.sum() < 364
