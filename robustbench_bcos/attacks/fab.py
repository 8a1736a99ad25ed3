"""Targeted FAB (Croce & Hein, 2020), carried out by torchattacks: the nearest image of another class."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, final

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import AttackResult, Trace, check_epsilon
from robustbench_bcos.attacks.gradients import image_gradient, usable
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Classifier, Images, Labels, Logits

REMEDY = 'pip install "robustbench_bcos[peers]"'
"""How to get torchattacks."""

NORMS = {"l2": "L2", "linf": "Linf"}
"""What torchattacks calls them."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FAB:
    """Step towards the decision boundary of one wrong class after another, and back towards the image.

    A target costs an image two forward passes and a backward pass per step, however early it was reached, because FAB
    goes on to shorten what it has found; images leave only between targets. The published attack counts what it finds
    within the ball; here, what it finds farther off is projected onto the ball, and counts if it still fools. Nothing
    is drawn, since there is no restart. The rest is as AutoAttack's standard version has it.

    Args:
        steps: for each target.
        targets: wrong classes, those of the highest logits first; more than there are means all.

    Raises:
        ValueError: steps or targets below 1.
    """

    steps: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1:
            raise ValueError(f"expected steps and targets of at least 1, got {self.steps} and {self.targets}")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractNorm,
        epsilon: float,
        generator: PerImageRng | None = None,
    ) -> AttackResult:
        """Search around each image, which is proposed itself where nothing in the ball was found.

        Raises:
            RequestError: torchattacks is not installed.
            ValueError: FAB does not know this norm, or no ball has this radius.
        """
        check_epsilon(epsilon)
        if ball.name not in NORMS:
            raise ValueError(f"expected a norm that FAB knows ({', '.join(NORMS)}), got {ball.name}")
        if not torchattacks_available():
            raise RequestError(f"FAB needs torchattacks, which is not installed: {REMEDY}")
        images = images.detach()
        candidates, trace = images.clone(), Trace.blank(images)
        with torch.no_grad():
            clean = classifier(images)
        trace.forward_passes.add_(1)
        active = (predicted_classes(clean) == labels).nonzero().squeeze(1)
        for rank in range(1, min(self.targets, clean.shape[1] - 1) + 1):
            if len(active) == 0:
                break
            network = _Network(classifier, images[active], labels[active], clean[active])
            deltas = self._nearest(network, rank, ball) - images[active]
            found = (images[active] + ball.project(deltas, epsilon)).clamp(0, 1)
            with torch.no_grad():
                wrong = predicted_classes(classifier(found)) != labels[active]
            network.trace.forward_passes.add_(1)
            candidates[active[wrong]] = found[wrong]
            trace.include(network.trace, active)
            active = active[~wrong]
        return AttackResult(candidates, trace)

    def _nearest(self, network: "_Network", rank: int, ball: AbstractNorm) -> Images:
        """The nearest images that torchattacks finds of the wrong class of this rank, at any distance."""
        # Here, because the package is optional and takes a while to import.
        from torchattacks import FAB as Peer

        peer = Peer(
            network, norm=NORMS[ball.name], steps=self.steps, alpha_max=0.1, eta=1.05, beta=0.9, multi_targeted=True
        )
        # Classes by logit, from the end of an ascending order: the last is the label.
        peer.target_class = rank + 1
        # Not by calling it, which would seed the global generator.
        found: Images = peer.attack_single_run_targeted(network.images.contiguous(), network.labels)
        return found


def torchattacks_available() -> bool:
    """Whether FAB can be used."""
    return find_spec("torchattacks") is not None


class _Network:
    """A classifier as torchattacks knows them: it works in float32 and tells its device by its parameters.

    torchattacks first asks for the clean images, to choose what to attack, and is told what is known of them: so it
    attacks them all, and each later query is a pass of every image. Logits are scaled to near 1, because torchattacks
    takes slopes below 1e-8 for 0; by powers of 2, so that nothing else changes to the last bit.
    """

    def __init__(self, classifier: Classifier, images: Images, labels: Labels, clean: Logits) -> None:
        self.classifier = classifier
        self.images = images
        self.labels = labels
        spread = clean.amax(dim=1, keepdim=True) - clean.amin(dim=1, keepdim=True)
        self.scale = torch.ldexp(torch.ones_like(spread), -spread.frexp().exponent)
        self.clean = self.scaled(clean)
        self.trace = Trace.blank(images)

    def parameters(self) -> Iterator[Tensor]:
        """Something on the device."""
        yield self.images

    def scaled(self, logits: Logits) -> Logits:
        """As torchattacks is shown them."""
        return (self.scale * logits).float()

    def __call__(self, asked: Images) -> Logits:
        """Logits, with a way back to the images where one is asked for."""
        if asked.requires_grad:
            traced: Logits = _OnlyToTheImages.apply(asked, self)
            return traced
        if not self.trace.forward_passes.any() and torch.equal(asked, self.images.float()):
            return self.clean
        with torch.no_grad():
            logits = self.classifier(asked.to(self.images))
        self.trace.forward_passes.add_(1)
        return self.scaled(logits)


class _OnlyToTheImages(torch.autograd.Function):
    """Logits whose gradient stops at the images: ``backward`` would add to the gradients of the parameters, too."""

    @staticmethod
    def forward(ctx: Any, asked: Tensor, network: _Network) -> Tensor:  # noqa: ANN401
        leaf = asked.detach().to(network.images).requires_grad_()
        with torch.enable_grad():
            logits = network.classifier(leaf)
        network.trace.forward_passes.add_(1)
        ctx.network, ctx.leaf, ctx.logits = network, leaf, logits
        return network.scaled(logits.detach())

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        network = ctx.network
        gradient, blind = usable(image_gradient(ctx.logits, ctx.leaf, network.scale * slope.to(ctx.logits)))
        network.trace.backward_passes.add_(1)
        network.trace.degenerate_gradient.logical_or_(blind & (predicted_classes(ctx.logits) == network.labels))
        return gradient.to(slope), None
