"""The same search in three other packages: projected gradient ascent from the image, one step size, one epsilon.

Each takes the classifier as it is loaded, its parameters frozen already, which spares a peer that would ask for their
gradients; and each gives back adversarials for all images, whether they fell at the first step or not at all.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.attacks.searches.pgd import RELATIVE_STEP

with warnings.catch_warnings():
    # Escapes in docstrings, and modules of SciPy that have moved.
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks
    from robustness import attack_steps

Peer = Callable[[nn.Module, Tensor, Tensor, str, float, int], Tensor]
"""Takes classifier, images, labels, norm, epsilon, and steps."""


PEER_NORMS = ("l2", "linf")
"""Those that all of them have steps for."""


def step_size(epsilon: float, steps: int) -> float:
    return RELATIVE_STEP * epsilon / steps


def of_torchattacks(
    classifier: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float, steps: int
) -> Tensor:
    kind = {"l2": torchattacks.PGDL2, "linf": torchattacks.PGD}[norm]
    attack = kind(classifier, eps=epsilon, alpha=step_size(epsilon, steps), steps=steps, random_start=False)
    adversarials: Tensor = attack(images, labels)
    return adversarials


def of_foolbox(classifier: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float, steps: int) -> Tensor:
    kind = {"l2": foolbox.attacks.L2PGD, "linf": foolbox.attacks.LinfPGD}[norm]
    attack = kind(abs_stepsize=step_size(epsilon, steps), steps=steps, random_start=False)
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device=images.device)
    _, adversarials, _ = attack(model, images, labels, epsilons=epsilon)
    return adversarials


def of_madrylab(classifier: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float, steps: int) -> Tensor:
    """MadryLab's loop with a custom loss. Before it asks that, which runs the model, it runs the model."""

    def losses_of(iterates: Tensor) -> Tensor:
        classifier(iterates)
        return F.cross_entropy(classifier(iterates), labels, reduction="none")

    return best_of_madrylab(losses_of, images, norm, epsilon, steps)


def best_of_madrylab(
    losses_of: Callable[[Tensor], Tensor], images: Tensor, norm: str, epsilon: float, steps: int
) -> Tensor:
    """MadryLab's loop around its own steps, with ``use_best``; the library itself runs on GPUs alone."""
    kind = {"l2": attack_steps.L2Step, "linf": attack_steps.LinfStep}[norm]
    step = kind(orig_input=images, eps=epsilon, step_size=step_size(epsilon, steps))
    best, best_losses = images.clone(), torch.full((len(images),), -torch.inf, device=images.device)
    iterates = images
    for taken in range(steps + 1):
        iterates = iterates.detach().requires_grad_()
        losses = losses_of(iterates)
        higher = losses.detach() > best_losses
        best[higher], best_losses[higher] = iterates.detach()[higher], losses.detach()[higher]
        if taken < steps:
            (gradient,) = torch.autograd.grad(losses.mean(), iterates)
            iterates = step.project(step.step(iterates.detach(), gradient.contiguous()))
    return best


PEERS: dict[str, Peer] = {
    "torchattacks": of_torchattacks,
    "foolbox": of_foolbox,
    "MadryLab's loop": of_madrylab,
}


def passes_of(peer: str, steps: int) -> int:
    """Forward passes of an image, the verdict's left out."""
    return {"torchattacks": steps, "foolbox": steps + 1, "MadryLab's loop": 2 * (steps + 1)}[peer]
