"""The search along the boundary: its smallest success, within the threat, at the cost that it announces."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.smallest import Smallest
from tests.attacks.conftest import TanhNet, Witness, broken, radius_of

every_norm = pytest.mark.parametrize("norm", NORMS)


@every_norm
def test_of_a_plane_it_finds_the_distance(norm: str) -> None:
    normal = torch.linspace(-1, 2, 60, dtype=torch.float64).view(3, 5, 4)
    images, labels = torch.full((3, 3, 5, 4), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    images[1] += 0.02
    images[2] -= 0.02

    def plane(shown: Tensor) -> Tensor:
        ahead = ((shown - 0.5) * normal).flatten(1).sum(dim=1) - 1.0
        return torch.stack([torch.zeros_like(ahead), ahead], dim=1)

    dual: dict[str, Callable[[Tensor], Tensor]] = {
        "linf": lambda w: w.abs().sum(),
        "l2": lambda w: w.norm(),
        "l1": lambda w: w.abs().max(),
    }
    gaps = -plane(images)[:, 1]
    found = Smallest(steps=100, loss="margin")(plane, images, labels, norm, 20.0)
    assert broken(plane, found, labels).all()
    sizes = NORMS[norm].size(found.adversarials - images)
    exact = gaps / dual[norm](normal)
    assert (sizes >= exact * (1 - 1e-6)).all()
    if norm != "l1":  # The pixel box ends a step of one value before it is long enough.
        torch.testing.assert_close(sizes, exact, rtol=0.01, atol=0)


@every_norm
def test_what_is_returned_is_the_smallest_success_that_was_seen(
    norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    witness = Witness(net)
    attack = Smallest(steps=6, walks=2)
    found = attack(witness, images, labels, norm, radius_of(norm))
    down = broken(net, found, labels)
    shown = torch.stack(witness.seen)
    # Further walks begin elsewhere.
    assert torch.equal(shown[0], images)
    assert not torch.equal(shown[attack.steps + 1], images)
    for place in range(len(images)):
        fooled = broken(net, shown[:, place], labels[place].expand(len(shown)))
        assert bool(fooled.any()) == bool(down[place])
        smallest = NORMS[norm].size(shown[fooled][:, place] - images[place]).min() if fooled.any() else 0.0
        assert float(NORMS[norm].size((found.adversarials - images)[place : place + 1])) == pytest.approx(smallest)
    assert (NORMS[norm].size(found.adversarials - images) <= radius_of(norm) * (1 + 1e-6)).all()
    assert set((found.trace.forward_passes + found.trace.backward_passes).tolist()) == {attack.passes}
    assert down.any()
    assert not down.all()
