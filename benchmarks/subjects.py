"""Models, and the images they are attacked on: by default those that come with the package."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import torch
from robustbench_bcos.bench.plan import Plan, make_plan
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.config import make_config
from robustbench_bcos.bench.target import AttackTarget, build_attack
from robustbench_bcos.bench.trial import Tried, try_images
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
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


def search(threat: AttackTarget, labels: Tensor, cell: Cell, loss: str, width: int) -> Tried:
    """A cell as ``run`` carries it out on a part of the slice: walked on, and judged."""
    attack, noise = build_attack(cell, loss, width), PerImageRng.of(0, range(len(labels)))
    ball, epsilon = NORMS[cell.norm], cell.radius.value
    return try_images(attack, threat, labels, ball, epsilon, noise, subject=cell.key, width=width)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="digits", help="digits (the default), cifar10, folder:DIR")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--zoo", type=Path, action="append", default=[], help="a folder with further cards")


def find_model(name: str, options: argparse.Namespace) -> Model:
    return find_models(name, Zoo(options.zoo))[0].load()


def make_run(options: argparse.Namespace, suite: str | None = None, **flags: object) -> Plan:
    """A run of the search alone: no evidence, no figures, cross-entropy, as peers ascend it."""
    search = {"evidence": "off", "figures": False, "loss": ("ce",), "batch_size": BATCH, "device": "cpu"}
    chosen = {"dataset": options.dataset, "data_dir": options.data_dir, "zoo": tuple(options.zoo)}
    return make_plan(make_config(search | chosen | flags, suite))


def make_own_run(models: dict[str, Model], images: Tensor, labels: Tensor, classes: int, **flags: object) -> Plan:
    """The same on models and images in memory."""
    search = {"evidence": "off", "figures": False, "loss": ("ce",), "batch_size": BATCH, "device": "cpu"}
    config = make_config(search | flags)
    sources = tuple(LoadedModel(replace(model, name=name)) for name, model in models.items())
    weights = {name: model.weights_sha256 for name, model in models.items()}
    cells = tuple(make_cells(config, list(models)))
    return Plan(config, EvalSubset.of(InMemory(images, labels, classes=classes)), sources, weights, cells, "cpu")


@torch.no_grad()
def right_images(model: Model, options: argparse.Namespace, count: int) -> Attacked:
    """So many images that the model classifies correctly, repeated from the first on where there are too few."""
    chosen = make_run(options, model=(model.name,)).images
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
def standing(classifier: nn.Module, candidates: Tensor, labels: Tensor) -> Tensor:
    """Which candidates the classifier still gets right."""
    return predicted_classes(classifier(candidates)) == labels
