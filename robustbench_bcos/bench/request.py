"""A request that has been checked in full: every name, radius, weights file and image, before the first attack."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from robustbench_bcos.attacks.fab import REMEDY, torchattacks_available
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.bench.adversarials import KEPT
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell, check_radius, make_cells
from robustbench_bcos.bench.config import Precision, RunConfig
from robustbench_bcos.bench.evidence.checks import checks_of
from robustbench_bcos.bench.evidence.searches import full_passes
from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.bench.identity import ExplainedImages, RunIdentity
from robustbench_bcos.bench.images import open_images
from robustbench_bcos.bench.model_preconditions import check_answers
from robustbench_bcos.bench.preconditions import check_explanation, check_model
from robustbench_bcos.bench.provenance import command, commit, describe_device, versions
from robustbench_bcos.bench.similarity import COUNT
from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.version import VERSION
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import Model, ModelSource, find_models, find_weights

PASSES_PER_EXPLANATION = 4
"""Two forward passes, for the prediction and for the maps, and a backward pass for each of two classes."""

LOADING = Lock()

CORES = torch.get_num_threads()
"""What torch has found, or was told in ``OMP_NUM_THREADS``; asked before a run sets it."""

SMALL_IMAGE = 32 * 32
"""Pixels below which an image counts as small."""


@dataclass(frozen=True)
class Plan:
    """What is to be done. Models are loaded again, one at a time, when their turn comes."""

    config: RunConfig
    images: EvalSubset
    sources: tuple[ModelSource, ...]
    weights: dict[str, str]
    """SHA-256 of each model's weights."""
    cells: tuple[Cell, ...]
    device: str
    explained: EvalSubset | None = None
    """Images whose explanations are compared: those asked to be pictured, then the first of the slice."""

    def source(self, name: str) -> ModelSource:
        """The source of the model of that name."""
        return next(source for source in self.sources if source.name == name)

    def cells_of(self, source: ModelSource) -> list[Cell]:
        """All that is measured on one model."""
        return [cell for cell in self.cells if cell.model == source.name]

    def load(self, source: ModelSource) -> Model:
        """The model on the run's device, with the twin that attacks walk on."""
        # One at a time: libraries draw a network's first weights from the global generator.
        with LOADING:
            model = source.load()
        model.classifier.to(self.device)
        config = self.config
        return make_fast_copy(
            model,
            compiled=config.compile,
            memory_format=config.memory_format,
            precision=config.precision,
            lanes=self.threads if torch.device(self.device).type == "cpu" else 1,
        )

    def batch_size(self, model: Model) -> BatchSize:
        """How many images to work on together, of a model that is on the run's device."""
        example = self.images.batch(0, 1).images.to(self.device)
        return BatchSize.of(model.attack_model, example, self.config.batch_size)

    @property
    def threads(self) -> int:
        """CPU threads to use: for images of few pixels, sharing their small tensors out costs more than it gives."""
        if self.config.threads is not None:
            return self.config.threads
        _, height, width = self.images.image_shape
        return 1 if height * width < SMALL_IMAGE else torch.get_num_threads()

    @property
    def jobs(self) -> int:
        """Models to work on at the same time: where one thread is best for one, every core has its own."""
        if self.config.jobs is not None:
            return self.config.jobs
        alone = self.threads > 1 or self.device != "cpu"
        return 1 if alone else min(CORES, len(self.sources))

    @cached_property
    def identity(self) -> RunIdentity:
        """All that decides the numbers: batch size and number of threads do not."""
        # One file of weights is several models, by what is stated of it.
        stated = self.config.model_dump(mode="json", include={"architecture", "encoding", "argument", "ema"})
        return RunIdentity(
            cells=self.cells,
            weights=self.weights,
            dataset=portable_name(self.config.dataset),
            images=len(self.images),
            subset=self.images.digest,
            preprocessing=str(self.images.dataset.preprocessing),
            seed=self.config.seed,
            device=torch.device(self.device).type,
            explained=self._explained_images(),
            evidence=self.config.evidence,
            distances=self.config.distances,
            independent_cells=self.config.independent_cells,
            attack_backend=(self.config.compile, self.config.memory_format, self.config.precision),
            classes=len(self.images.class_names),
            fab="autoattack" not in self.config.attack or torchattacks_available(),
            version=VERSION,
            torch=versions()["torch"],
            reading=stated if any(stated.values()) else None,
        )

    def describe(self) -> dict[str, Any]:
        """What else a reader of the run may want to know of this session."""
        return {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command(),
            "configuration": self.config.model_dump(mode="json"),
            "class_names": self.images.class_names,
            "versions": versions(),
            "device": describe_device(self.device),
            "commit": commit(),
        }

    @property
    def work(self) -> int:
        """Images of all cells, attacked ones and explained ones, and those that checks are likely to examine."""
        explained = len(self.explained) if self.explained else 0
        distances = len(self.sources) * len(self.config.norm) * len(self.images) if self.config.distances else 0
        each = len(self.images) + explained + self.checks * self.work_of_a_check
        return len(self.cells) * each + distances

    @property
    def checks(self) -> int:
        """Checks of each cell, besides those of its verdicts and of its model."""
        return len(checks_of(self.config.evidence, "cell"))

    @property
    def work_of_a_check(self) -> int:
        """Images it counts for in a display of progress."""
        return len(self.images) if self.config.evidence == "full" else max(1, len(self.images) // 10)

    @property
    def transferred(self) -> frozenset[int]:
        """Images whose candidates are kept to be tried on other models."""
        if self.config.evidence == "off" or len(self.sources) < 2 or self.config.space != "image":
            return frozenset()
        return frozenset(self.images.indices if self.config.evidence == "full" else self.images.indices[:KEPT])

    @property
    def passes(self) -> int:
        """Forward and backward passes of one image at most, evidence and explanations by gradients included."""
        explained = 0 if self.explained is None else len(self.explained)
        attacks = sum(cell.passes for cell in self.cells) * (len(self.images) + explained)
        # Clean and other images once for each model, attacked and noisy ones for each cell.
        seen = 2 * len(self.sources) + 2 * len(self.cells)
        return attacks + self.evidence_passes + seen * PASSES_PER_EXPLANATION * explained

    @property
    def evidence_passes(self) -> int:
        """Of these, about as many as evidence can take."""
        if self.config.evidence == "off":
            return 0
        if self.config.evidence == "quick":
            return sum(cell.passes for cell in self.cells) * len(self.images)
        return sum(full_passes(cell) for cell in self.cells) * len(self.images)

    def _explained_images(self) -> ExplainedImages | None:
        if self.explained is None:
            return None
        return ExplainedImages(
            method=self.config.explanation,
            select=COUNT,
            images=tuple(self.images.indices[: self.config.explanations]),
            pictured=tuple(self.config.images),
        )

    @property
    def folder_name(self) -> str:
        """A name that only this configuration has."""
        digest = hashlib.sha256(json.dumps(self.identity.to_json(), sort_keys=True).encode()).hexdigest()
        return f"{self.config.dataset.partition(':')[0]}-{'-'.join(self.config.norm)}-{digest[:8]}"


def make_plan(config: RunConfig) -> Plan:
    """Check a configuration against the data, the models and the machine.

    Raises:
        RequestError: it cannot be carried out as asked.
    """
    sources = find_sources(config)
    images = EvalSubset.of(open_images(config, sources), config.limit)
    device = choose_device(config.device)
    check_precision(config.precision, device)
    names = [source.name for source in sources]
    made = (cell for part in config.parts for cell in make_cells(part, names))
    cells = sorted(made, key=lambda cell: names.index(cell.model))
    for cell in cells[: len(cells) // len(sources)]:
        check_radius(cell.radius, cell.norm, diameter(cell, images))
    if "fab" in config.attack and not torchattacks_available():
        raise RequestError(f"--attack fab needs torchattacks: {REMEDY}, or leave it out")
    explained = explained_subset(config, images)
    weights, losses = {}, {}
    for source in sources:
        model = source.load()
        check_model(model, images, device=device, space=config.space)
        if not config.skip_model_checks:
            check_answers(model, images, device=device)
        if explained is not None:
            check_explanation(model, explained, config.explanation, device)
        weights[source.name] = model.weights_sha256
        losses[source.name] = model.loss
    return Plan(config, images, sources, weights, tuple(_different(cells, losses)), device, explained)


def _different(cells: Sequence[Cell], losses: Mapping[str, str]) -> Iterator[Cell]:
    """Cells without repetitions: for a model whose own loss is ce, ``auto`` and ``ce`` are one."""
    seen = set()
    for cell in cells:
        meant = replace(cell, loss=cell.loss_of(losses[cell.model]))
        if meant not in seen:
            seen.add(meant)
            yield cell


def explained_subset(config: RunConfig, images: EvalSubset) -> EvalSubset | None:
    """The images to be explained, or ``None`` where there are none.

    Raises:
        RequestError: an image that is asked for is not part of the run.
    """
    for index in config.images:
        if index not in images.indices:
            raise RequestError(
                f"--images {index} is not among the {len(images)} images of this run: give indices of "
                f"{images.dataset.name} such as {', '.join(map(str, images.indices[:3]))}, or a larger --limit"
            )
    # A dict, because it keeps the order and drops what is named twice.
    indices = tuple(dict.fromkeys((*config.images, *images.indices[: config.explanations])))
    return EvalSubset(images.dataset, indices) if indices else None


def portable_name(dataset: str) -> str:
    """A folder goes by its last part: where it lies differs from one machine to the next."""
    kind, _, path = dataset.partition(":")
    return f"{kind}:{Path(path).resolve().name}" if path else dataset


def check_precision(precision: Precision, device: str) -> None:
    """Refuse a way of rounding that a device has not.

    Raises:
        RequestError: TF32 without a GPU.
    """
    if precision == "tf32" and not device.startswith("cuda"):
        raise RequestError(f"--precision tf32 is how NVIDIA's GPUs round, and --device is {device}: use fp32 or bf16")


def diameter(cell: Cell, images: EvalSubset) -> float:
    """Size of the largest delta in the space that a cell attacks."""
    channels, height, width = images.image_shape
    return NORMS[cell.norm].diameter((channels * (2 if cell.space == "encoded" else 1), height, width))


def find_sources(config: RunConfig) -> tuple[ModelSource, ...]:
    """The models of a request, or the dataset's whole zoo where it names none.

    Raises:
        RequestError: one is not to be found, or two are called the same.
    """
    zoo = Zoo(config.zoo)
    found: dict[str, ModelSource] = {}
    if config.weights is not None:
        checkpoint = find_weights(
            config.weights, config.architecture, encoding=config.encoding, arguments=config.argument, ema=config.ema
        )
        found[checkpoint.name] = checkpoint
    patterns: Sequence[str] = config.model
    if not patterns and not found:
        patterns = zoo.at_hand(config.dataset)
    of_file = frozenset(found)
    for pattern in patterns:
        # A card has its own encoding, and beside a weights file what is stated is the file's.
        stated = config.encoding if ":" in pattern and not of_file else None
        for source in find_models(pattern, zoo, stated):
            if source.name in of_file:
                raise RequestError(f"--weights and --model are both called {source.name!r}: rename the weights file")
            found[source.name] = source
    return tuple(found.values())
