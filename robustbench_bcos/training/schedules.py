"""What changes from step to step: learning rates, and a B that is scheduled."""

import math

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from robustbench_bcos.model_zoo.bcos.layers import BcosModule
from robustbench_bcos.training.recipes import Recipe, ScheduledB

WARM_UP = 0.25
"""Part of the cycle during which the learning rate rises."""


def schedule_of(recipe: Recipe, optimiser: torch.optim.Optimizer, batches: int) -> LRScheduler:
    """The learning rates of a recipe.

    Args:
        recipe: for the kind and the number of epochs.
        optimiser: whose rates they are.
        batches: steps of an epoch.
    """
    if recipe.schedule == "cosine":
        return _Cosine(optimiser, epochs=recipe.epochs, batches=batches)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[group["lr"] for group in optimiser.param_groups],
        # torch divides by the length of the rise, which is 0 in a cycle of four steps.
        total_steps=max(5, recipe.epochs * batches),
        pct_start=WARM_UP,
        cycle_momentum=False,
    )


class _Cosine(LRScheduler):
    """From the first epoch's rate down to 0 after the last one, in a step for each epoch, as published."""

    def __init__(self, optimiser: torch.optim.Optimizer, *, epochs: int, batches: int) -> None:
        self.epochs, self.batches = epochs, batches
        super().__init__(optimiser)

    def get_lr(self) -> list[float | Tensor]:
        share = (self.last_epoch // self.batches) / self.epochs
        return [rate * (1 + math.cos(math.pi * share)) / 2 for rate in self.base_lrs]


def set_b(network: nn.Module, schedule: ScheduledB | None, epoch: float, b: float) -> None:
    """Give B-cos layers the B of a moment.

    Args:
        network: changed in place.
        schedule: how B grows; ``None`` leaves it as it is.
        epoch: epochs that are done, fractions included.
        b: where it ends.
    """
    if schedule is None:
        return
    reached = min(1.0, epoch / schedule.epochs)
    for module in network.modules():
        if isinstance(module, BcosModule):
            module.b = schedule.start + (b - schedule.start) * reached
