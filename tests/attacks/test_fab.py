"""FAB as torchattacks carries it out, and what surrounds it: counts, projection, and what must be left alone."""

import importlib.machinery
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import fab
from robustbench_bcos.attacks.attack import Attack, AttackResult
from robustbench_bcos.attacks.fab import FAB, torchattacks_available
from robustbench_bcos.attacks.norms import L2, NORMS
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import generator
from tests.attacks.conftest import TanhNet, Witness

RADII = {"l2": 0.1, "linf": 0.015}
"""Some of the images fall, some of these only towards a later target, and some resist."""

PEER_NORMS = {"l2": "L2", "linf": "Linf"}

every_norm = pytest.mark.parametrize("norm", RADII)


@pytest.fixture
def torchattacks() -> Any:
    return pytest.importorskip("torchattacks")


@pytest.fixture
def net(net: TanhNet) -> TanhNet:
    """In float32, as torchattacks works."""
    return net.float()


@pytest.fixture
def images() -> Tensor:
    return torch.rand((20, 3, 5, 4), generator=generator(1))


def peer_of(torchattacks: Any, net: nn.Module, norm: str, *, steps: int, targets: int) -> Any:
    return torchattacks.FAB(
        net, norm=PEER_NORMS[norm], eps=RADII[norm], steps=steps, multi_targeted=True, n_classes=targets + 1
    )


def fell(net: nn.Module, candidates: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return predicted_classes(net(candidates)) != labels


@every_norm
def test_it_finds_what_torchattacks_finds_on_all_images_at_once(
    norm: str, net: TanhNet, images: Tensor, labels: Tensor, torchattacks: Any
) -> None:
    ball, epsilon = NORMS[norm], RADII[norm]
    ours = FAB(steps=30, targets=6)(net, images, labels, ball, epsilon).candidates
    with torch.random.fork_rng():
        theirs = peer_of(torchattacks, net, norm, steps=30, targets=6)(images, labels)
    found = fell(net, theirs, labels)
    assert 3 < found.sum() < 18
    assert not (found & ~fell(net, ours, labels)).any()
    # Theirs may be found for a later target, where ours was found beyond the ball and fooled after its projection.
    near = (ours - theirs).flatten(1).abs().amax(dim=1) < 1e-5
    assert (near & found).sum() >= found.sum() - 2


@every_norm
def test_what_only_ours_fools_was_found_beyond_the_ball(
    norm: str, net: TanhNet, images: Tensor, labels: Tensor, torchattacks: Any
) -> None:
    ball, epsilon = NORMS[norm], RADII[norm]
    labels = predicted_classes(net(images).detach())
    peer = peer_of(torchattacks, net, norm, steps=30, targets=1)
    peer.target_class = 2
    nearest = peer.attack_single_run_targeted(images, labels)
    distances = ball.size(nearest - images)
    ours = FAB(steps=30, targets=1)(net, images, labels, ball, epsilon).candidates
    fooled = fell(net, ours, labels)
    assert fooled[(distances <= epsilon) & fell(net, nearest, labels)].all()
    projected = (images + ball.project(nearest - images, epsilon)).clamp(0, 1)
    torch.testing.assert_close(ours[fooled], projected[fooled], rtol=0, atol=1e-5)
    assert torch.equal(ours[~fooled], images[~fooled])


@every_norm
@pytest.mark.parametrize("size", [1, 3])
def test_batches_change_no_verdict(norm: str, size: int, net: TanhNet, images: Tensor, labels: Tensor) -> None:
    attack, ball, epsilon = FAB(steps=20, targets=3), NORMS[norm], RADII[norm]
    whole = attack(net, images, labels, ball, epsilon)
    for start in range(0, 20, size):
        part = slice(start, start + size)
        found = attack(net, images[part], labels[part], ball, epsilon)
        assert torch.equal(fell(net, found.candidates, labels[part]), fell(net, whole.candidates, labels)[part])
        # float32, over 20 steps
        torch.testing.assert_close(found.candidates, whole.candidates[part], rtol=0, atol=1e-5)
        for field in found.trace._fields:
            assert torch.equal(getattr(found.trace, field), getattr(whole.trace, field)[part])


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_candidates_are_images_in_the_ball(
    norm: str, dtype: torch.dtype, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    attack = FAB(steps=10, targets=2)
    assert isinstance(attack, Attack)
    net, images = net.to(dtype), images.to(dtype)
    candidates = attack(net, images, labels, NORMS[norm], RADII[norm]).candidates
    assert candidates.dtype == dtype
    assert candidates.min() >= 0
    assert candidates.max() <= 1
    sizes = NORMS[norm].size(candidates.double() - images.double())
    assert (sizes > 0).any()
    assert (sizes <= RADII[norm] + 2**-24 * 60**0.5).all()  # float32
    assert torch.equal(attack(net, images, labels, NORMS[norm], 0.0).candidates, images)


@every_norm
@pytest.mark.parametrize("exponent", [-60, 60])
def test_the_scale_of_the_logits_changes_nothing(
    norm: str, exponent: int, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    attack, ball, epsilon = FAB(steps=10, targets=2), NORMS[norm], RADII[norm]
    plain = attack(net, images, labels, ball, epsilon)
    scaled = attack(lambda shown: net(shown) * 2.0**exponent, images, labels, ball, epsilon)
    assert torch.equal(scaled.candidates, plain.candidates)
    assert not scaled.trace.degenerate_gradient.any()


def test_passes_are_what_each_image_was_shown(net: TanhNet, images: Tensor, labels: Tensor) -> None:
    attack = FAB(steps=7, targets=3)
    witness = Witness(net)
    proposal = attack(witness, images, labels, NORMS["l2"], RADII["l2"])
    assert proposal.trace.forward_passes.sum() == sum(len(shown) for shown in witness.seen)
    for index in range(20):
        alone = Witness(net)
        attack(alone, images[index, None], labels[index, None], NORMS["l2"], RADII["l2"])
        assert proposal.trace.forward_passes[index] == len(alone.seen)
    stood = ~fell(net, proposal.candidates, labels)
    assert stood.any()
    # A look at the clean image; for each target two passes a step and the judgement of what was found.
    assert (proposal.trace.forward_passes[stood] == 1 + 3 * (2 * 7 + 1)).all()
    assert (proposal.trace.backward_passes[stood] == 3 * 7).all()
    assert proposal.trace.forward_passes[-1] == 1
    assert torch.equal(proposal.candidates[-1], images[-1])


def test_later_targets_fool_what_earlier_ones_do_not(net: TanhNet) -> None:
    images = torch.rand((40, 3, 5, 4), generator=torch.Generator().manual_seed(1))
    labels = predicted_classes(net(images).detach())

    def verdicts(proposal: AttackResult) -> Tensor:
        return fell(net, proposal.candidates, labels)

    one, six, many = (
        FAB(steps=15, targets=targets)(net, images, labels, NORMS["linf"], 0.02) for targets in (1, 6, 100)
    )
    assert not (verdicts(one) & ~verdicts(six)).any()
    assert verdicts(one).sum() < verdicts(six).sum()
    assert torch.equal(six.candidates, many.candidates)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_no_matter(classes: int, net: TanhNet, images: Tensor) -> None:
    def few(shown: Tensor) -> Tensor:
        return net(shown)[:, :classes]

    labels = predicted_classes(few(images).detach())
    found = FAB(steps=10)(few, images, labels, NORMS["l2"], 0.15)
    stood = predicted_classes(few(found.candidates).detach()) == labels
    assert 0 < stood.sum() < 20
    assert (found.trace.backward_passes[stood] == 10 * (classes - 1)).all()


def test_it_touches_neither_inputs_nor_parameters_nor_generators_nor_modes(
    net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    net.train()
    before = [tensor.clone() for tensor in (images, labels, *net.parameters())]
    states = torch.get_rng_state(), str(np.random.get_state())
    candidates = FAB(steps=3, targets=2)(net, images, labels, NORMS["l2"], 0.1).candidates
    assert net.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]
    for tensor, copy in zip((images, labels, *net.parameters()), before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor.grad is None
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not candidates.requires_grad


def test_it_says_nothing(net: TanhNet, images: Tensor, labels: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    FAB(steps=2, targets=1)(net, images, labels, NORMS["linf"], 0.1)
    assert capsys.readouterr() == ("", "")


def test_blind_steps_are_told(net: TanhNet, images: Tensor) -> None:
    labels = predicted_classes(net(images).detach())
    seeing = torch.arange(20) % 2 == 0

    def half_blind(shown: Tensor) -> Tensor:
        logits: Tensor = net(torch.where(seeing[:, None, None, None], shown, shown.detach()))
        return logits

    proposal = FAB(steps=3, targets=1)(half_blind, images, labels, NORMS["l2"], 1e-3)
    assert torch.equal(proposal.trace.degenerate_gradient, ~seeing)


def test_standing_still_costs_as_much_as_walking(net: TanhNet) -> None:
    # Black, so that steps of 0 leave it as it is to the last bit.
    image = torch.zeros(1, 3, 5, 4)
    label = predicted_classes(net(image).detach())
    proposal = FAB(steps=3, targets=2)(lambda shown: net(shown.detach()), image, label, NORMS["l2"], 1e-3)
    assert torch.equal(proposal.candidates, image)
    assert proposal.trace.degenerate_gradient.all()
    assert proposal.trace.forward_passes.tolist() == [1 + 2 * (2 * 3 + 1)]


def test_logits_that_are_not_finite_count_as_misclassified(net: TanhNet, images: Tensor) -> None:
    labels = predicted_classes(net(images).detach())

    def broken(shown: Tensor) -> Tensor:
        # Near every image, but nowhere at one.
        away = (shown - images[: len(shown)]).flatten(1).abs().amax(dim=1) > 1e-4
        return torch.where(away[:, None], torch.nan, net(shown))

    candidates = FAB(steps=4, targets=1)(broken, images, labels, NORMS["l2"], 0.05).candidates
    assert candidates.isfinite().all()
    assert NORMS["l2"].size(candidates - images).max() <= 0.05 * (1 + 1e-5)


def test_without_torchattacks_it_says_how_to_get_it(
    net: TanhNet, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> importlib.machinery.ModuleSpec | None:
        assert name == "torchattacks"
        return None

    monkeypatch.setattr(fab, "find_spec", missing)
    assert not torchattacks_available()
    with pytest.raises(RequestError, match=r'torchattacks.*pip install "robustbench_bcos\[peers\]"'):
        FAB()(net, images, labels, NORMS["l2"], 0.1)


def test_nothing_imports_torchattacks_before_it_is_needed() -> None:
    code = "import sys, robustbench_bcos.attacks.ensemble; sys.exit('torchattacks' in sys.modules)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_norm_that_fab_does_not_know_is_refused(
    net: TanhNet, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(L2, "name", "l7")
    with pytest.raises(ValueError, match=r"FAB knows \(l2, linf\), got l7"):
        FAB()(net, images, labels, NORMS["l2"], 0.1)


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"targets": 0}], ids=str)
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FAB(**arguments)
