"""Targeted FAB (Croce & Hein, 2020), carried out by torchattacks: the nearest image of another class."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, final

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import (
    AbstractAttack,
    AttackResult,
    LongAttack,
    Problem,
    Trace,
    require_known,
    require_labels,
)
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.gradients import image_gradient, usable
from robustbench_bcos.attacks.halts import Frames, Halt, Steps, split
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import missing_targets
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.packages import find_package
from robustbench_bcos.core.types import Images, Logits, Tensor

REMEDY = "pip install torchattacks"
"""How to get torchattacks."""

NORM_NAMES = {"l1": "L1", "l2": "L2", "linf": "Linf"}
"""What torchattacks calls them."""

PASSES_PER_STEP = 3
"""Two forward passes and a backward pass."""


@final
@ATTACKS.registered("fab")
@dataclass(frozen=True, kw_only=True)
class FAB(LongAttack):
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

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:
        """Refuse a norm that torchattacks does not know, a targeted criterion, or a machine without torchattacks."""
        require_known(norm, NORM_NAMES, "FAB")
        require_labels(criterion, "FAB")
        if not torchattacks_available():
            raise RequestError(f"FAB needs torchattacks, which is not installed: {REMEDY}, or choose another attack")

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        mine, _ = split(left)
        images, first = problem.images, int(mine.get("rank", 1))
        adversarials, trace = AttackResult.of(mine) if mine else (images.clone(), Trace.blank(images))
        if mine:
            clean, active = mine["clean"], mine["active"]
        else:
            clean = problem.outputs(images)
            trace.forward_passes.add_(1)
            active = (~problem.criterion.success(clean, problem.goals)).nonzero().squeeze(1)
        last = min(self.targets, clean.shape[1] - 1)
        for rank in range(first, last + 1):
            if len(active) == 0:
                break
            frame = {"rank": torch.tensor(rank), "clean": clean, "active": active}
            yield Halt(
                frames=({**frame, **AttackResult(adversarials, trace).frame},),
                stage=f"target {rank} of {last}",
                done=len(images) - len(active),
                share=(rank - 1) / last,
            )
            remaining = problem.select(active)
            network = _Network(remaining, clean[active])
            found = problem.threat.project(remaining.images, self._nearest(network, rank) - remaining.images)
            success = remaining.succeeds(found)
            network.trace.forward_passes.add_(1)
            adversarials[active[success]] = found[success]
            trace.include(network.trace, active)
            active = active[~success]
        return AttackResult(adversarials, trace)

    def _nearest(self, network: "_Network", rank: int) -> Images:
        """The nearest images that torchattacks finds of the wrong class of this rank, at any distance."""
        # Here, because the package is optional and takes a while to import.
        from torchattacks import FAB as Peer

        problem = network.problem
        peer = Peer(
            network,
            norm=NORM_NAMES[problem.threat.norm],
            steps=self.steps,
            alpha_max=0.1,
            eta=1.05,
            beta=0.9,
            multi_targeted=True,
        )
        # Classes by logit, from the end of an ascending order: the last is the label.
        peer.target_class = rank + 1
        # Not by calling it, which would seed the global generator.
        found: Images = peer.attack_single_run_targeted(problem.images.contiguous(), problem.goals)
        return found

    @property
    def passes(self) -> int:
        """A look at the clean image; for each target its steps, and a look at what was found."""
        return 1 + self.targets * (PASSES_PER_STEP * self.steps + 1)

    @property
    def effort(self) -> int:
        """The steps for each target."""
        return self.steps

    def stronger(self) -> AbstractAttack:
        """Auto-PGD with four times the steps: more steps of FAB find little more."""
        return APGD(steps=4 * self.steps)

    def reported(self, threat: Threat) -> dict[str, Any]:
        """It begins at the image."""
        return self.options | {"start": "image"}

    def left_out(self, classes: int) -> dict[str, str]:
        """Targets that the model does not have."""
        return missing_targets(self.targets, classes)


def torchattacks_available() -> bool:
    """Whether FAB can be used."""
    return find_package("torchattacks") is not None


class _Network:
    """A classifier as torchattacks knows them: it works in float32 and tells its device by its parameters.

    torchattacks first asks for the clean images, to choose what to attack, and gets the logits that are known: so it
    attacks them all, and each later query is a pass of every image. Logits are scaled to near 1, because torchattacks
    takes slopes below 1e-8 for 0; by powers of 2, so that nothing else changes to the last bit.
    """

    def __init__(self, problem: Problem, clean: Logits) -> None:
        self.problem = problem
        self.images = problem.images
        spread = clean.amax(dim=1, keepdim=True) - clean.amin(dim=1, keepdim=True)
        self.scale = torch.ldexp(torch.ones_like(spread), -spread.frexp().exponent)
        self.clean = self.scaled(clean)
        self.trace = Trace.blank(problem.images)

    def parameters(self) -> Iterator[Tensor]:
        """Something on the device."""
        yield self.images

    def scaled(self, logits: Logits) -> Logits:
        """As torchattacks is shown them."""
        return (self.scale * logits).float()

    def __call__(self, asked: Images) -> Logits:
        """Logits, with a way back to the images where one is asked for."""
        if asked.requires_grad:
            traced: Logits = _only_to_the_images().apply(asked, self)
            return traced
        if not self.trace.forward_passes.any() and torch.equal(asked, self.images.float()):
            return self.clean
        with torch.no_grad():
            logits = self.problem.classifier(asked.to(self.images))
        self.trace.forward_passes.add_(1)
        return self.scaled(logits)


@cache
def _only_to_the_images() -> "type[torch.autograd.Function]":
    """Logits whose gradient stops at the images: ``backward`` would add to the gradients of the parameters, too."""

    class OnlyToTheImages(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, asked: Tensor, network: _Network) -> Tensor:  # noqa: ANN401
            leaf = asked.detach().to(network.images).requires_grad_()
            with torch.enable_grad():
                logits = network.problem.classifier(leaf)
            network.trace.forward_passes.add_(1)
            ctx.network, ctx.leaf, ctx.logits = network, leaf, logits
            return network.scaled(logits.detach())

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
            network = ctx.network
            gradient, degenerate = usable(image_gradient(ctx.logits, ctx.leaf, network.scale * slope.to(ctx.logits)))
            network.trace.backward_passes.add_(1)
            success = network.problem.criterion.success(ctx.logits, network.problem.goals)
            network.trace.degenerate_gradient.logical_or_(degenerate & ~success)
            return gradient.to(slope), None

    return OnlyToTheImages
