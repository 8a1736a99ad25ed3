"""A threat: a norm and an epsilon, made once from what users write."""

import pytest
import torch

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.rng import generator

every_norm = pytest.mark.parametrize("norm", NORMS)


@every_norm
def test_a_threat_is_written_in_many_ways(norm: str) -> None:
    expected = Threat.of(norm, "8/255")
    for name in (norm, norm.upper(), norm.capitalize(), f"{norm[0].upper()}_{norm[1:]}"):
        assert Threat.of(name, "8/255") == Threat.of(name, Quantity.of("8/255")) == expected
    assert (expected.norm, expected.text, expected.radius) == (norm, "8/255", 8 / 255)
    assert str(expected) == f"{norm} 8/255"
    assert hash(Threat.of(norm, "8/255")) == hash(expected)
    assert Threat.of(expected) is expected
    assert len({expected, Threat.of(norm, 0.5), Threat.of(norm, "8/255")}) == 2


@pytest.mark.parametrize(
    ("norm", "epsilon", "message"),
    [
        ("l2", None, "comes without an epsilon"),
        ("l2", float("nan"), "must be finite"),
        ("l2", torch.tensor([0.1, -0.1]), "eps must be finite and not negative for each image"),
        ("l2", torch.tensor([0.1, torch.inf]), "eps must be finite"),
        ("linv", 0.1, "did you mean 'linf'"),
        (Threat.of("l2", 0.5), 0.25, "threat l2 0.5 has an epsilon already: leave out 0.25"),
    ],
)
def test_a_threat_that_makes_no_sense_is_refused(norm: Threat | str, epsilon: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Threat.of(norm, epsilon)  # type: ignore[arg-type]


@every_norm
def test_a_threat_is_its_norm_at_its_epsilon(norm: str) -> None:
    threat, images = Threat.of(norm, 0.3), torch.rand(2, 3, 2, 4, generator=generator(0))
    steps = torch.randn(2, 3, 2, 4, generator=generator(1))
    assert torch.equal(threat.project(images, steps), NORMS[norm].project(images, steps, 0.3))
    assert torch.equal(threat.steepest_ascent(steps, images), NORMS[norm].steepest_ascent(steps, images))
    assert torch.equal(threat.size(steps), NORMS[norm].size(steps))
    draws = threat.sample((3, 2, 4), [generator(2), generator(3)])
    assert torch.equal(draws, NORMS[norm].sample((3, 2, 4), 0.3, [generator(2), generator(3)]))


@every_norm
def test_a_larger_threat_contains_a_smaller_one_and_the_unbounded_one_all(norm: str) -> None:
    small, large, all_images = Threat.of(norm, 0.1), Threat.of(norm, "1/5"), Threat.of(norm, 1.0).unbounded((3, 5, 4))
    assert large.contains(small)
    assert small.contains(small)
    assert not small.contains(large)
    assert all_images.contains(large)
    images = torch.rand(2, 3, 5, 4, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(all_images.project(images, 1 - 2 * images), 1 - images, rtol=0, atol=1e-15)
    assert not any(Threat.of(other, 9.0).contains(small) for other in NORMS if other != norm)


def test_an_epsilon_for_each_image_goes_with_its_image() -> None:
    threat = Threat.of("l2", torch.tensor([0.1, 0.2, 0.3]))
    epsilon = threat.select(torch.tensor([2, 0])).epsilon
    assert isinstance(epsilon, torch.Tensor)
    assert epsilon.tolist() == pytest.approx([0.3, 0.1])
    assert Threat.of("l2", 0.1).select(torch.tensor([1])) == Threat.of("l2", 0.1)
    with pytest.raises(ValueError, match="one epsilon for all images, got one for each"):
        _ = threat.radius
    # Its text does not tell it from another one.
    assert threat != Threat.of("l2", torch.tensor([0.1, 0.2, 0.4]))
    assert threat == threat
