"""What training minimises, per image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.core.types import Labels, Logits, PerImage
from robustbench_bcos.training.recipes import Recipe

Objective = Callable[[Logits, Labels], PerImage]


def objective_of(recipe: Recipe) -> Objective:
    """The loss of a recipe, with its smoothing of labels.

    ``ce`` is cross-entropy; ``bce`` the mean of binary ones over classes; ``bce_off_label`` has 1 / classes as the
    target of other classes, at which a sigmoid whose logit bias is -ln(classes - 1) begins (Böhle et al., 2024).

    Texts of classes that are held out are no part of it.
    """
    trained = _trained(recipe)

    def objective(logits: Logits, labels: Labels) -> PerImage:
        if len(trained) < recipe.classes:
            columns = torch.tensor(trained, device=logits.device)
            logits, labels = logits[:, columns], torch.searchsorted(columns, labels)
        targets = _targets(recipe, logits, labels)
        if recipe.loss is TrainingLoss.CE:
            return -(targets * logits.log_softmax(dim=1)).sum(dim=1)
        # softplus does not round to 0 where a sigmoid rounds to 1.
        return (F.softplus(logits) - targets * logits).mean(dim=1)

    return objective


def _trained(recipe: Recipe) -> list[int]:
    """Outputs whose classes have images to train on."""
    if recipe.texts is None:
        return list(range(recipe.classes))
    return [i for i, name in enumerate(recipe.texts.classes) if name not in recipe.texts.held_out]


def _targets(recipe: Recipe, logits: Logits, labels: Labels) -> Tensor:
    classes = logits.shape[1]
    targets = F.one_hot(labels, classes).to(logits)
    targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
    return targets.clamp_min(1 / classes) if recipe.loss is TrainingLoss.BCE_OFF_LABEL else targets
