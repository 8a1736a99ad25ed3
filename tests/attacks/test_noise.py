"""Noise: the first draw that is misclassified, and what it cost."""

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from tests.attacks.conftest import radius_of

every_norm = pytest.mark.parametrize("norm", NORMS)


def draws_of(norm: str, epsilon: float, images: Tensor, rng: PerImageRng, restarts: int) -> Tensor:
    """What there is to choose from: (restart, image, channel, height, width)."""
    noise = [NORMS[norm].sample(images.shape[1:], epsilon, rng(restart)) for restart in range(restarts)]
    return (images + torch.stack(noise).to(images)).clamp(0, 1)


@every_norm
def test_the_adversarial_is_the_first_misclassified_draw_or_the_last(
    norm: str, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    epsilon, rng = 9 * radius_of(norm), PerImageRng.of(5, range(20, 29))
    result = Noise(restarts=6)(net, images, labels, norm, epsilon, rng=rng)
    draws = draws_of(norm, epsilon, images, rng, restarts=6)
    needed = []
    for image in range(len(images)):
        wrong = (predicted_classes(net(draws[:, image])) != labels[image]).tolist()
        needed.append(wrong.index(True) + 1 if any(wrong) else 6)
        assert torch.equal(result.adversarials[image], draws[needed[-1] - 1, image])
    assert {1, 6} < set(needed)
    assert result.trace.forward_passes.tolist() == needed
    assert result.trace.backward_passes.tolist() == [0] * 9
    assert not result.trace.degenerate_gradient.any()
