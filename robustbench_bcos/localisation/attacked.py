"""What an attack makes of pictures, and noise of the same size beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.loss import Loss, resolve_loss
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.similarity import noise_of_size
from robustbench_bcos.bench.target import AttackTarget, make_target
from robustbench_bcos.bench.trial import attack_and_judge
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Flags, Goals, Images, Logits, PerImage
from robustbench_bcos.localisation.scene import Scene
from robustbench_bcos.model_zoo.models import Model

PADDING = -1
"""In goals of a picture that has fewer classes than another of its batch."""


@dataclass(frozen=True)
class NoneOfThem(AbstractCriterion):
    """None of the classes of a picture is predicted; the attack leads away from all of them at once."""

    name = "none_of_them"

    def success(self, outputs: Logits, goals: Goals) -> Flags:
        """Another class is predicted than those of the picture; an output that is not finite is none of them."""
        return (predicted_classes(outputs)[:, None] != goals).all(dim=1)

    def nearness(self, outputs: Logits, goals: Goals) -> PerImage:
        """The largest other logit less the largest of the picture's classes, in float64."""
        named = _named(outputs, goals)
        logits = outputs.double()
        others = logits.masked_fill(named, -torch.inf).amax(dim=1)
        found: Tensor = others - logits.masked_fill(~named, -torch.inf).amax(dim=1)
        return found.masked_fill(~outputs.isfinite().all(dim=1), torch.inf)

    def objective(self, loss: "Loss | str") -> Loss:
        """The mean of the loss over the classes of a picture."""
        one = resolve_loss(loss)

        def mean(outputs: Logits, goals: Goals) -> PerImage:
            there = goals != PADDING
            losses = [one(outputs, column.clamp(min=0)) for column in goals.unbind(dim=1)]
            return (torch.stack(losses, dim=1) * there).sum(dim=1) / there.sum(dim=1)

        return mean


def _named(outputs: Logits, goals: Goals) -> Tensor:
    """Which logits are those of a picture's classes."""
    marks = torch.zeros(len(outputs), outputs.shape[1] + 1, dtype=torch.bool, device=outputs.device)
    # Padding marks a column that is dropped.
    return marks.scatter(1, goals.where(goals != PADDING, outputs.shape[1]), True)[:, :-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Perturbed:
    """Pictures of scenes after an attack, and with noise."""

    attack: list[Tensor]
    noise: list[Tensor]
    sizes: list[list[float]]
    """Of each scene's units, in float64."""


def perturb(model: Model, cell: Cell, scenes: Sequence[Scene], *, seed: int, device: str, batch_size: int) -> Perturbed:
    """Attack the units of all scenes together, in full: all steps, and of these the iterate of highest loss.

    Args:
        model: on its device.
        cell: the threat and the attack.
        scenes: whose units have one size.
        seed: of everything drawn.
        device: the model's.
        batch_size: units that the model is shown at a time.
    """
    units = torch.cat([scene.cut(scene.picture) for scene in scenes]).to(device)
    goals = _goals(scenes).to(device)
    alone = goals.shape[1] == 1 and bool((goals != PADDING).all())
    # By the image that a unit shows, or by the number of the picture: no draw depends on the batch.
    indices = [
        scene.images[unit.positions[0]] if len(unit.positions) == 1 else scene.number
        for scene in scenes
        for unit in scene.units
    ]
    if alone:
        target = make_target(model, cell, units, goals[:, 0], seed=seed, indices=indices)
    else:
        target = AttackTarget(
            classifier=model.classifier,
            attack_model=model.attack_model,
            images=units,
            labels=goals[:, 0],
            goals=goals,
            threat=cell.threat,
            criterion=NoneOfThem(),
            rng=PerImageRng.of(seed, indices).fold_in("picture"),
        )
    attack = cell.attack.with_loss(model.loss).in_full()
    judged = attack_and_judge(attack, target, subject=cell.key, batch_size=batch_size)
    noisy = noise_of_size(units, judged.verdicts.sizes, cell.threat, target.rng)
    return Perturbed(
        attack=_pasted(scenes, judged.adversarials),
        noise=_pasted(scenes, noisy),
        sizes=[part.tolist() for part in judged.verdicts.sizes.split([len(scene.units) for scene in scenes])],
    )


def _goals(scenes: Sequence[Scene]) -> Goals:
    """The classes that each unit has, padded to one width."""
    rows = [[scene.targets[position] for position in unit.positions] for scene in scenes for unit in scene.units]
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PADDING] * (width - len(row))] for row in rows])


def _pasted(scenes: Sequence[Scene], units: Images) -> list[Tensor]:
    parts = units.split([len(scene.units) for scene in scenes])
    return [scene.pasted(part) for scene, part in zip(scenes, parts, strict=True)]
