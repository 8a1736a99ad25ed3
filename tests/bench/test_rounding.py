"""Pictures near adversarial examples: 256 levels, within the threat, and successes where such a picture is near."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.rounding import nearest_level, round_successes, towards
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.prediction import NO_CLASS
from robustbench_bcos.core.rng import PerImageRng

SHAPE = (3, 6, 5)
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
EPSILONS = {"l1": "2", "l2": "0.3", "linf": "8/255"}

every_norm = pytest.mark.parametrize("norm", NORMS)


class Plane(nn.Module):
    """Two classes, on either side of a plane."""

    def __init__(self, normal: Tensor, offset: float) -> None:
        super().__init__()
        self.normal, self.offset = normal, offset

    def forward(self, images: Tensor) -> Tensor:
        sides = (images * self.normal).flatten(1).sum(dim=1) - self.offset
        return torch.stack([-sides, sides], dim=1)


def barely_past_a_plane(norm: str, epsilon: str, images: Tensor) -> tuple[AttackTarget, Tensor]:
    """Those images that a step within the threat takes past a plane, and where it takes them: hardly past it."""
    threat, normal = Threat.of(norm, epsilon), torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    sides = (images * normal).flatten(1).sum(dim=1)
    plane = Plane(normal, float(sides.median()))
    # In l1 spread over all pixels, so that none leaves the box.
    towards = normal.sign() if norm == "linf" else normal
    direction = towards[None] / threat.size(towards[None])
    needed = (plane.offset - sides + 1e-4) / (direction * normal).sum()
    chosen = ((needed > 0) & (needed < 0.9 * threat.radius)).nonzero().squeeze(1)
    adversarials = images[chosen] + needed[chosen, None, None, None] * direction
    labels = torch.zeros(len(chosen), dtype=torch.long)
    target = AttackTarget(
        classifier=plane,
        attack_model=plane,
        images=images[chosen],
        labels=labels,
        goals=labels,
        threat=threat,
        criterion=make_criterion("misclassified"),
        rng=PerImageRng.of(0, chosen.tolist()),
    )
    return target, adversarials


def drawn(count: int, *, levels: bool) -> Tensor:
    images = 0.25 + 0.5 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    return nearest_level(images) if levels else images


def fools(target: AttackTarget, images: Tensor) -> Tensor:
    return torch.as_tensor(target.classifier(images).argmax(dim=1) == 1)


@every_norm
@pytest.mark.parametrize("levels", [True, False])
def test_where_the_nearest_picture_fails_another_one_within_the_threat_is_found(norm: str, levels: bool) -> None:
    target, adversarials = barely_past_a_plane(norm, EPSILONS[norm], drawn(300, levels=levels))
    assert len(adversarials) > 20
    assert fools(target, adversarials).all()
    lost = ~fools(target, nearest_level(adversarials))
    assert lost.float().mean() > 0.2
    found = round_successes(target, adversarials, subject="cell", batch_size=7)
    # What is said of each is true by hand, in float64.
    pixels = (found.images.double() * 255).numpy()
    assert np.abs(pixels - pixels.round()).max() < 1e-4
    changed = (found.images.double() - target.images.double()).flatten(1).numpy()
    sizes = np.array([np.linalg.norm(change, ord=ORDERS[norm]) for change in changed])
    kept = found.success.numpy()
    assert (sizes[kept] <= target.threat.radius + 1e-5).all()
    assert torch.equal(found.success, found.success & fools(target, found.images))
    assert torch.equal(found.predictions[found.success], torch.ones_like(found.predictions[found.success]))
    # Each is among the roundings of its adversarial example, up or down.
    assert (found.images - adversarials).abs().max() < 1.001 / 255
    # And so nearly all are kept: of a plane the gradient knows the best rounding there is.
    assert kept[lost.numpy()].mean() > 0.9
    assert kept[~lost.numpy()].all() or norm == "linf"


@every_norm
def test_no_picture_is_claimed_where_none_is_within_the_threat(norm: str) -> None:
    # Images between two levels, and a ball that reaches neither.
    images = nearest_level(drawn(200, levels=True)) + 0.5 / 255
    target, adversarials = barely_past_a_plane(norm, "1e-3", images)
    assert len(adversarials) > 0
    found = round_successes(target, adversarials, subject="cell", batch_size=64)
    assert not found.success.any()
    assert (found.predictions == NO_CLASS).all()


def test_the_judge_and_not_the_fast_copy_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    target, adversarials = barely_past_a_plane("l2", "0.3", drawn(200, levels=True))
    stubborn = Plane(target.classifier.normal, target.classifier.offset + 1e3)  # type: ignore[arg-type, operator]
    monkeypatch.setattr(target.classifier, "forward", stubborn.forward)
    assert not round_successes(target, adversarials, subject="cell", batch_size=64).success.any()


@every_norm
@pytest.mark.parametrize("levels", [True, False], ids=["pictures", "any images"])
def test_towards_the_image_no_example_leaves_a_ball_and_pictures_become_pictures(norm: str, levels: bool) -> None:
    images = drawn(40, levels=levels)
    threat = Threat.of(norm, EPSILONS[norm])
    sources = [torch.Generator().manual_seed(place) for place in range(40)]
    adversarials = (images + threat.sample(SHAPE, sources)).clamp(0, 1)
    rounded = towards(images, adversarials)
    assert bool((threat.size(rounded - images) <= threat.size(adversarials - images)).all())
    assert bool(((rounded - images).abs() <= (adversarials - images).abs()).all())
    assert not torch.equal(rounded, images)
    if levels:
        assert torch.allclose(rounded, nearest_level(rounded), atol=1e-7)
    # A pixel value that is a level stays, on whichever side of it float32 has put it.
    again = nearest_level(adversarials)
    assert torch.allclose(towards(images, again), again, atol=1e-6)
