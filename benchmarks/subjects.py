"""Models, and the images they are attacked on: by default those that come with the package."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.request import Request, check_request, make_request
from robustbench_bcos.bench.target import AttackTarget, make_target
from robustbench_bcos.bench.trial import Judged, attack_and_judge
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import LoadedModel, Model, find_models

BATCH = 256


class Attacked(NamedTuple):
    """What an attack is given."""

    model: Model
    images: Tensor
    labels: Tensor

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of each, and their labels."""
        return zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True)


def target_of(model: Model, images: Tensor, labels: Tensor, cell: Cell) -> AttackTarget:
    """Images of a cell, by default drawing as indices of seed 0."""
    return make_target(model, cell, images, labels, seed=0, indices=range(len(labels)))


def search(target: AttackTarget, cell: Cell, loss: str, batch_size: int) -> Judged:
    """A cell as ``run`` carries it out on a part of the subset: attacked, and judged."""
    return attack_and_judge(cell.attack.with_loss(loss), target, subject=cell.key, batch_size=batch_size)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="digits", help="digits (the default), cifar10, folder:DIR")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--zoo", type=Path, action="append", default=[], help="a folder with further cards")


def find_model(name: str, options: argparse.Namespace) -> Model:
    return find_models(name, Zoo(options.zoo))[0].load()


def make_run(options: argparse.Namespace, suite: str | None = None, **flags: object) -> Request:
    """A run of the search alone: no evidence, no figures, cross-entropy, as peers ascend it."""
    search = {"evidence": "off", "figures": False, "loss": ("ce",), "batch_size": BATCH, "device": "cpu"}
    chosen = {"dataset": options.dataset, "data_dir": options.data_dir, "zoo": tuple(options.zoo)}
    return make_request(make_config(search | chosen | flags, suite))


def make_own_run(models: dict[str, Model], images: Tensor, labels: Tensor, classes: int, **flags: object) -> Request:
    """The same on models and images in memory."""
    search = {"evidence": "off", "figures": False, "loss": ("ce",), "batch_size": BATCH, "device": "cpu"}
    config = make_config(search | flags)
    sources = [LoadedModel(replace(model, name=name)) for name, model in models.items()]
    return check_request(config, EvalSubset.of(InMemory(images, labels, classes=classes)), sources)


@torch.no_grad()
def right_images(model: Model, options: argparse.Namespace, count: int) -> Attacked:
    """So many images that the model classifies correctly, repeated from the first on where there are too few."""
    chosen = make_run(options, model=(model.name,)).subset
    images, labels, found = [], [], 0
    for batch in chosen.batches(BATCH):
        right = predicted_classes(model.classifier(batch.images)) == batch.labels
        images.append(batch.images[right])
        labels.append(batch.labels[right])
        found += int(right.sum())
        if found >= count:
            break
    places = list(islice(cycle(range(found)), count))
    return Attacked(model, torch.cat(images)[places], torch.cat(labels)[places])


@torch.no_grad()
def standing(classifier: nn.Module, adversarials: Tensor, labels: Tensor) -> Tensor:
    """Which images the classifier still gets right."""
    return predicted_classes(classifier(adversarials)) == labels
