"""APGD against a twin that stores everything, against torchattacks, and against what it promises."""

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.loss import resolve_loss
from robustbench_bcos.attacks.searches.apgd import APGD, checkpoints
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator

RADII = {"l2": 0.6, "linf": 0.05}
every_norm = pytest.mark.parametrize("norm", RADII)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Small and curved, in float64; its gradient is nowhere 0 but for rounding, which signs would tell apart."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 5)).double()
    for seed, parameter in enumerate(net.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((24, 3, 6, 8), generator=generator(7), dtype=torch.float64)


@pytest.fixture(scope="module")
def labels(network: nn.Module, images: Tensor) -> Tensor:
    return predicted_classes(network(images))


def twin(
    net: nn.Module, image: Tensor, label: Tensor, norm: str, epsilon: float, start: Tensor, attack: APGD
) -> Tensor:
    """One image, all iterates and losses kept, after the paper: the iterate of highest loss."""
    ball, steps = NORMS[norm], attack.steps

    def look(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = resolve_loss(attack.loss)(net(leaf), label)
        return float(loss.detach()), torch.autograd.grad(loss.sum(), leaf)[0]

    def project(point: Tensor) -> Tensor:
        return (image + ball.project_onto_ball(point - image, epsilon)).clamp(0, 1)

    points = [start]
    loss, gradient = look(start)
    losses, best, best_gradient, best_loss = [loss], start, gradient, loss
    best_losses = [loss]
    step_size, halved, checked, previous = 2 * epsilon, True, 0, start
    rule = checkpoints(steps)
    for step in range(1, steps + 1):
        here = points[-1]
        ahead = project(here + step_size * ball.steepest_ascent(gradient))
        share = 0.75 if step > 1 else 1.0
        new = project(here + share * (ahead - here) + (1 - share) * (here - previous))
        previous = here
        loss, gradient = look(new)
        points.append(new)
        losses.append(loss)
        if loss > best_loss:
            best, best_gradient, best_loss = new, gradient, loss
        best_losses.append(best_loss)
        if step in rule:
            table = [0.0, *losses[1:]] if attack.zero_index else losses
            rises = sum(table[i] > table[i - 1] for i in range(checked + 1, step + 1))
            stalled = rises <= 0.75 * (step - checked) or (not halved and best_losses[checked] >= best_loss)
            if stalled:
                step_size, gradient = step_size / 2, best_gradient
                points[-1] = best
            halved, checked = stalled, step
    return best


def test_checkpoints_of_a_hundred_steps_are_the_published_ones() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 33, 1000])
def test_checkpoints_begin_after_a_fifth_and_come_ever_sooner(steps: int) -> None:
    found = checkpoints(steps)
    windows = [b - a for a, b in zip([0, *found], found, strict=False)]
    assert found[0] == max(int(0.22 * steps), 1)
    assert found[-1] <= steps
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] >= max(int(0.06 * steps), 1)


@every_norm
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "bce"])
@pytest.mark.parametrize("zero_index", [False, True])
def test_search_is_that_of_the_paper(
    network: nn.Module, images: Tensor, labels: Tensor, norm: str, loss: str, zero_index: bool
) -> None:
    attack = APGD(steps=30, loss=loss, select="best_loss", zero_index=zero_index)
    few = slice(0, 8)
    found, _ = attack(network, images[few], labels[few], norm, RADII[norm])
    sources = PerImageRng.of(0, range(8))(0)
    noise = Threat.of(norm, RADII[norm]).sample_sphere(images.shape[1:], sources)
    for position in range(8):
        image, label = images[position : position + 1], labels[position : position + 1]
        start = (image + noise[position].to(image)).clamp(0, 1)
        expected = twin(network, image, label, norm, RADII[norm], start, attack)
        torch.testing.assert_close(found[position], expected[0], rtol=0, atol=1e-9)


@every_norm
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_verdicts_are_those_of_torchattacks(
    network: nn.Module, images: Tensor, labels: Tensor, norm: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    epsilon = RADII[norm]
    sources = [generator(0, index) for index in range(24)]
    draws = torch.stack([torch.rand(images.shape[1:], generator=source, dtype=torch.float64) for source in sources])
    delta = 2 * draws - 1 if norm == "linf" else draws
    # Both begin at the same draws: theirs come from the global generator.
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: draws)
    peer = torchattacks.APGD(network, norm={"l2": "L2", "linf": "Linf"}[norm], eps=epsilon, steps=25, loss=loss)
    _, _, _, theirs = peer.attack_single_run(images.contiguous(), labels)
    monkeypatch.undo()

    monkeypatch.setattr(
        Threat,
        "sample_sphere",
        lambda *_: delta * (epsilon / NORMS[norm].size(delta)).view(-1, 1, 1, 1),
    )
    attack = APGD(steps=25, loss=loss, zero_index=True)
    ours, _ = attack(network, images, labels, norm, epsilon, rng=PerImageRng.of(0, range(24)))
    fell = network(theirs).argmax(dim=1) != labels
    assert 0 < fell.sum() < len(fell)
    assert torch.equal(network(ours).argmax(dim=1) != labels, fell)


def test_it_beats_as_many_steps_of_pgd(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    found, _ = APGD(steps=40)(network, images, labels, "linf", 0.03)
    peer, _ = PGD(steps=40)(network, images, labels, "linf", 0.03)
    assert (network(found).argmax(1) == labels).sum() <= (network(peer).argmax(1) == labels).sum()


def test_blind_steps_are_told(images: Tensor) -> None:
    def flat(inputs: Tensor) -> Tensor:
        return torch.eye(5, dtype=inputs.dtype)[:1].expand(len(inputs), 5) + 0 * inputs.sum((1, 2, 3))[:, None]

    found, trace = APGD(steps=3)(flat, images, torch.zeros(24, dtype=torch.long), "l2", 0.5)
    assert trace.degenerate_gradient.all()
    assert found.isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
def test_start_has_exactly_the_radius(norm: str) -> None:
    draws = Threat.of(norm, 0.3).sample_sphere((3, 6, 8), [generator(i) for i in range(5)])
    torch.testing.assert_close(NORMS[norm].size(draws), torch.full((5,), 0.3))
