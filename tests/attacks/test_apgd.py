"""APGD against a twin that stores everything, against torchattacks, and against what it promises."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.apgd import APGD, checkpoints, on_the_boundary
from robustbench_bcos.attacks.attack import Attack
from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.attacks.pgd import PGD
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
    return network(images).argmax(dim=1)


def twin(
    net: nn.Module, image: Tensor, label: Tensor, norm: str, epsilon: float, start: Tensor, attack: APGD
) -> Tensor:
    """One image, all iterates and losses kept, after the paper: the iterate of highest loss."""
    ball, steps = NORMS[norm], attack.steps

    def look(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = attack.loss(net(leaf), label)
        return float(loss.detach()), torch.autograd.grad(loss.sum(), leaf)[0]

    def project(point: Tensor) -> Tensor:
        return (image + ball.project(point - image, epsilon)).clamp(0, 1)

    points = [start]
    loss, gradient = look(start)
    losses, best, best_gradient, best_loss = [loss], start, gradient, loss
    best_losses = [loss]
    step_size, halved, checked, previous = 2 * epsilon, True, 0, start
    rule = checkpoints(steps)
    for step in range(1, steps + 1):
        here = points[-1]
        ahead = project(here + step_size * ball.ascend(gradient))
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
    attack = APGD(steps=30, loss=LOSSES[loss], count="best-loss", zero_index=zero_index)
    few = slice(0, 8)
    found, _ = attack(network, images[few], labels[few], NORMS[norm], RADII[norm])
    sources = PerImageRng.of(0, range(8))(0)
    noise = on_the_boundary(NORMS[norm], images.shape[1:], RADII[norm], sources)
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
    ball, epsilon = NORMS[norm], RADII[norm]
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
        "robustbench_bcos.attacks.apgd.on_the_boundary",
        lambda *_: delta * (epsilon / ball.size(delta)).view(-1, 1, 1, 1),
    )
    attack = APGD(steps=25, loss=LOSSES[loss], zero_index=True)
    ours, _ = attack(network, images, labels, ball, epsilon, PerImageRng.of(0, range(24)))
    fell = network(theirs).argmax(dim=1) != labels
    assert 0 < fell.sum() < len(fell)
    assert torch.equal(network(ours).argmax(dim=1) != labels, fell)


@every_norm
@pytest.mark.parametrize("count", ["any", "last", "best-loss"])
def test_candidates_stay_in_the_ball_and_the_box(
    network: nn.Module, images: Tensor, labels: Tensor, norm: str, count: Any
) -> None:
    found, _ = APGD(steps=10, count=count)(network, images, labels, NORMS[norm], RADII[norm])
    assert (NORMS[norm].size(found - images) <= RADII[norm] * (1 + 1e-9)).all()
    assert found.min() >= 0
    assert found.max() <= 1


@every_norm
def test_batches_change_nothing(network: nn.Module, images: Tensor, labels: Tensor, norm: str) -> None:
    attack, ball, epsilon = APGD(steps=20, restarts=3), NORMS[norm], RADII[norm]
    together, whole = attack(network, images, labels, ball, epsilon, PerImageRng.of(3, range(24)))
    for start in range(0, 24, 7):
        part = slice(start, start + 7)
        source = PerImageRng.of(3, list(range(24))[part])
        found, trace = attack(network, images[part], labels[part], ball, epsilon, source)
        torch.testing.assert_close(found, together[part], rtol=0, atol=1e-9)
        assert torch.equal(trace.forward_passes, whole.forward_passes[part])
        assert torch.equal(trace.backward_passes, whole.backward_passes[part])


def test_restarts_only_ever_fool_more(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    def robust(restarts: int) -> Tensor:
        found, _ = APGD(steps=1, restarts=restarts)(network, images, labels, NORMS["linf"], 0.05)
        return network(found).argmax(dim=1) == labels

    once, often = robust(1), robust(8)
    assert not (often & ~once).any()
    assert often.sum() < once.sum()


def test_best_loss_is_the_best_of_all_restarts(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    def losses(restarts: int) -> Tensor:
        attack = APGD(steps=6, restarts=restarts, count="best-loss")
        found, _ = attack(network, images, labels, NORMS["linf"], 0.01)
        return LOSSES["ce"](network(found), labels)

    assert (losses(4) >= losses(1)).all()
    assert (losses(4) > losses(1)).any()


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_scale_of_the_loss_changes_nothing(network: nn.Module, images: Tensor, labels: Tensor, factor: float) -> None:
    def scaled(logits: Tensor, labels: Tensor) -> Tensor:
        return factor * LOSSES["margin"](logits, labels)

    plain, _ = APGD(steps=15, loss=LOSSES["margin"])(network, images, labels, NORMS["l2"], 0.6)
    found, _ = APGD(steps=15, loss=scaled)(network, images, labels, NORMS["l2"], 0.6)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-9)


def test_it_is_an_attack_that_beats_as_many_steps_of_pgd(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack = APGD(steps=40)
    assert isinstance(attack, Attack)
    found, _ = attack(network, images, labels, NORMS["linf"], 0.03)
    peer, _ = PGD(steps=40)(network, images, labels, NORMS["linf"], 0.03)
    assert (network(found).argmax(1) == labels).sum() <= (network(peer).argmax(1) == labels).sum()


def test_passes_are_counted_per_image_until_it_falls(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    found, trace = APGD(steps=10)(network, images, labels, NORMS["linf"], 0.03)
    stood = network(found).argmax(dim=1) == labels
    assert stood.any()
    assert (~stood).any()
    assert (trace.forward_passes[stood] == 11).all()
    assert (trace.backward_passes[stood] == 10).all()
    assert (trace.backward_passes[~stood] < 10).all()
    assert torch.equal(trace.forward_passes[~stood], trace.backward_passes[~stood] + 1)


def test_blind_steps_are_told(images: Tensor) -> None:
    def flat(inputs: Tensor) -> Tensor:
        return torch.eye(5, dtype=inputs.dtype)[:1].expand(len(inputs), 5) + 0 * inputs.sum((1, 2, 3))[:, None]

    found, trace = APGD(steps=3)(flat, images, torch.zeros(24, dtype=torch.long), NORMS["l2"], 0.5)
    assert trace.degenerate_gradient.all()
    assert found.isfinite().all()


def test_start_has_exactly_the_radius() -> None:
    for norm, ball in ((name, NORMS[name]) for name in NORMS):
        draws = on_the_boundary(ball, torch.Size((3, 6, 8)), RADII[norm], [generator(i) for i in range(5)])
        torch.testing.assert_close(ball.size(draws), torch.full((5,), RADII[norm]))


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"restarts": 0}], ids=str)
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        APGD(**arguments)
