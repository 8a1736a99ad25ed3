"""What a cell attacks, and with what."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.attack import Attack
from robustbench_bcos.attacks.ensemble import standard
from robustbench_bcos.attacks.fab import FAB, torchattacks_available
from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.noise import Noise
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.attacks.square import Square
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.config import TARGETED
from robustbench_bcos.core.types import Images
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.models import Model


class AttackTarget(NamedTuple):
    """What is attacked: a classifier and the tensors it takes, in the space the cell asks for."""

    classifier: nn.Module
    images: Images
    searched: nn.Module
    """What an attack walks on; the judge asks the classifier."""


def make_target(model: Model, images: Images, cell: Cell) -> AttackTarget:
    """The classifier and its images, or the network behind the encoding and encoded images."""
    classifier, searched = model.classifier, model.attack_model
    if cell.space == "encoded" and isinstance(classifier, ImageClassifier):
        walked = searched.network if isinstance(searched, ImageClassifier) else classifier.network
        return AttackTarget(classifier.network, classifier.encoding(images), walked)
    return AttackTarget(classifier, images, searched)


def build_attack(cell: Cell, loss: str, width: int | None = None) -> Attack:
    """The attack of a cell, with the loss that ``auto`` turned out to be.

    Args:
        cell: what is carried out.
        loss: its name.
        width: images that an attack walks on together which takes in new ones; others take what they get.
    """
    searches: dict[str, Callable[[], Attack]] = {
        "pgd": lambda: PGD(
            steps=cell.steps,
            step_size=None if cell.step_size is None else cell.step_size.value,
            loss=LOSSES[loss],
            start=cell.start,
            restarts=cell.restarts,
            count=cell.count,
            width=width,
        ),
        "apgd": lambda: APGD(
            steps=cell.steps,
            loss=LOSSES["dlr" if loss == TARGETED else loss],
            restarts=cell.restarts,
            count=cell.count,
            targets=cell.targets,
        ),
        "square": lambda: Square(queries=cell.queries, restarts=cell.restarts),
        "fab": lambda: FAB(steps=cell.steps, targets=cell.targets),
        "autoattack": lambda: standard(fab=torchattacks_available()),
        "noise": lambda: Noise(restarts=cell.restarts),
    }
    return searches[cell.attack]()
