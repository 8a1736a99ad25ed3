"""A request that has been checked in full: every name, radius, weights file and image, before the first attack."""

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import torch

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.bench.adversarials import KEPT
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.config import EACH, Precision, RunConfig
from robustbench_bcos.bench.evidence.alternatives import LABELLED
from robustbench_bcos.bench.evidence.answers import FEW, is_random
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.failures import SameForm, failures_named
from robustbench_bcos.bench.fast_copy import has_known_modules_alone, make_fast_copy
from robustbench_bcos.bench.folder import Session
from robustbench_bcos.bench.foreseen import check_attacks, check_radius
from robustbench_bcos.bench.identity import AttackedMaps, ExplainedImages, RunIdentity, SmoothedNetworks
from robustbench_bcos.bench.images import open_images
from robustbench_bcos.bench.model_preconditions import check_answers
from robustbench_bcos.bench.models import ModelCache
from robustbench_bcos.bench.preconditions import adapt_model, check_attackable, check_explanation, check_model
from robustbench_bcos.bench.provenance import check_same, command, commit, describe_device, versions
from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.version import VERSION
from robustbench_bcos.data.checked import Checked
from robustbench_bcos.data.class_order import read_class_order
from robustbench_bcos.data.opening import models_of
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.draws import average_draws, draws_of
from robustbench_bcos.model_zoo.models import Model, ModelSource, find_models, find_weights

PICTURES = 6
"""Images of a run that are pictured where none are asked for, the first ones."""

SMALL_IMAGE = 32 * 32
"""Pixels below which an image counts as small."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be done."""

    config: RunConfig
    subset: EvalSubset
    sources: tuple[ModelSource, ...]
    models: ModelCache
    weights: Mapping[str, str]
    """SHA-256 of each model's weights."""
    cells: tuple[Cell, ...]
    device: str
    """Of this process."""
    elsewhere: str | None = None
    """The device of jobs, where it is another one."""
    explained: EvalSubset | None = None
    """Images whose explanations are compared: those asked to be pictured, then the first of the subset."""
    fooled: EvalSubset | None = None
    """Images whose explanations are attacked."""
    block: EvalSubset | None = None
    """Of the subset, what one job attacks."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell of the images and of the attacks before hours are spent on them."""
        caveats = [caveat for cell in self.cells for caveat in cell.attack.caveats(cell.threat.norm)]
        marked = [f"{caveat}: its numbers will be marked as suspect" for caveat in dict.fromkeys(caveats)]
        return (*self.subset.notes, *marked)

    @property
    def worked_on(self) -> EvalSubset:
        """The images that are attacked here."""
        return self.subset if self.block is None else self.block

    def cells_of(self, source: ModelSource) -> list[Cell]:
        """All that is measured on one model."""
        return [cell for cell in self.cells if cell.model == source.name]

    def batch_size(self, model: Model) -> BatchSize:
        """How many images to work on together."""
        example = self.subset.batch(0, 1).images.to(self.device)
        return BatchSize.of(model.attack_model, example, self.config.batch_size)

    def moving_cells(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those whose attack moves explanations, too, where any are to be moved."""
        return [cell for cell in cells if self.fooled is not None and cell.attack.moves_maps]

    @property
    def threads(self) -> int:
        """CPU threads to use."""
        return threads_for(self.config, self.subset)

    @property
    def work_of_a_check(self) -> int:
        """Images that a check counts for in a display of progress."""
        return len(self.subset) if self.config.evidence == "full" else max(1, len(self.subset) // 10)

    @property
    def transferred(self) -> frozenset[int]:
        """Images whose adversarial examples are kept to be tried on other models."""
        if self.config.evidence == "off" or len(self.sources) < 2 or self.config.space != "image":
            return frozenset()
        indices = self.subset.indices
        return frozenset(indices if self.config.evidence == "full" else indices[:KEPT])

    def kept(self, cell: Cell) -> frozenset[int]:
        """Images of a cell whose adversarial examples are kept: to be saved, explained or tried on other models."""
        if self.config.save_adversarials:
            return frozenset(self.subset.indices)
        explained = self.explained.indices if self.explained is not None and explains_its_own(cell.attack) else ()
        return self.transferred.union(explained)

    @property
    def always_pictured(self) -> tuple[int, ...]:
        """Images that are pictured whatever an attack does to them."""
        return self.config.images or self.subset.indices[:PICTURES]

    @cached_property
    def identity(self) -> RunIdentity:
        """All that decides the numbers: batch size and number of threads do not."""
        config = self.config
        # One file of weights is several models, by what is stated of it.
        stated = config.model_dump(mode="json", include={"architecture", "encoding", "argument", "ema"})
        explained = ExplainedImages(
            method=config.explanation,
            images=self.subset.indices[: config.explanations],
            pictured=config.images,
        )
        return RunIdentity(
            cells=self.cells,
            weights=self.weights,
            dataset=portable_name(config.dataset),
            images=len(self.subset),
            subset=self.subset.digest,
            preprocessing=str(self.subset.dataset.preprocessing),
            seed=config.seed,
            device=torch.device(self.elsewhere or self.device).type,
            explained=None if self.explained is None else explained,
            evidence=config.evidence,
            distances=config.distances,
            save_adversarials=config.save_adversarials,
            independent_cells=config.independent_cells,
            eot=config.eot,
            attack_backend=(config.compile, config.memory_format, config.precision),
            classes=len(self.subset.class_names),
            version=VERSION,
            torch=versions()["torch"],
            plugins=config.plugin_digests,
            reading=stated if any(stated.values()) else None,
            adversarial=self.subset.dataset.adversarial or None,
            maps=None
            if self.fooled is None
            else AttackedMaps(
                goals=config.map_goals,
                methods=config.methods,
                band=config.confidence_band,
                images=self.fooled.indices,
            ),
            smoothed=SmoothedNetworks(
                certificates=tuple(dict.fromkeys(config.certify)),
                sigmas=tuple(dict.fromkeys(sigma.value for sigma in config.certify_sigma)),
                draws=config.certify_draws,
                alpha=config.certify_alpha,
                method=config.explanation,
                shape=self.subset.image_shape,
            )
            if config.certify
            else None,
        )

    def describe(self) -> Session:
        """What else a reader of the run may want to know of this session."""
        return {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command(),
            "configuration": self.config.model_dump(mode="json"),
            "class_names": self.subset.class_names,
            "images": self.subset.notes,
            "versions": versions(),
            "device": describe_device(self.device),
            "commit": commit(),
        }

    @property
    def digest(self) -> str:
        """Eight characters that only this configuration has."""
        identity = json.dumps(self.identity.to_json(), sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:8]

    @property
    def folder_name(self) -> str:
        """A name that only this configuration has."""
        norms = "-".join(dict.fromkeys(cell.threat.norm for cell in self.cells))
        return f"{self.config.dataset.partition(':')[0]}-{norms}-{self.digest}"


def explains_its_own(attack: AbstractAttack) -> bool:
    """Whether explanations can use the attack's own adversarial examples, so that it need not run again."""
    return attack.in_full() == attack


def make_request(config: RunConfig) -> Request:
    """Check a configuration against the data, the models and the machine.

    Raises:
        RequestError: it cannot be carried out as asked.
    """
    sources = find_sources(config)
    subset = EvalSubset.of(open_images(config, sources), config.limit)
    return check_request(config, subset, sources)


def check_request(
    config: RunConfig,
    subset: EvalSubset,
    sources: Sequence[ModelSource],
    attacks: Sequence[AbstractAttack] = (),
) -> Request:
    """Check models and images that are at hand.

    Args:
        config: what is asked for.
        subset: the images.
        sources: the models.
        attacks: instead of the configuration's.

    Raises:
        RequestError: it cannot be carried out as asked.
    """
    elsewhere = EXECUTORS[config.executor].device_of_jobs(config)
    device = "cpu" if elsewhere else choose_device(config.device)
    check_precision(config.precision, elsewhere or device)
    criteria = _criteria(config, subset.class_names)
    sources = [source.for_classes(subset.class_names) for source in sources]
    names = [source.name for source in sources]
    cells = make_cells(config, names, attacks, criteria)
    shape = _attacked_shape(config, subset)
    for cell in cells[: len(cells) // len(names)]:
        check_radius(cell.threat.norm, Quantity(cell.threat.text, cell.threat.radius), shape)
        cell.attack.check(cell.threat.geometry, make_criterion(cell.criterion))
        make_criterion(cell.criterion).check(len(subset.class_names))
    explained = explained_subset(config, subset)
    fooled = fooled_subset(config, subset)
    check_attacks(config, [cell.attack for cell in cells])
    models = ModelCache(lambda model: prepared(config, subset, device, model))
    weights, losses, random = {}, {}, False
    for source in sources:
        model = models.get(source)
        check_model(model, subset, device=device, space=config.space)
        with failures_named(model, subset.dataset, subset.indices[: LABELLED[-1]], "before the first attack"):
            if not config.skip_model_checks:
                check_answers(model, subset, device=device)
            if explained is not None:
                check_explanation(model, explained, config.explanation, device)
            if fooled is not None:
                check_attackable(model, fooled, config.methods, device)
        random |= draws_of(model.classifier) > 1
        weights[source.name] = model.weights_sha256
        losses[source.name] = model.loss
    if config.eot > 1 and not random:
        raise RequestError(
            f"eot {config.eot} averages over the draws of random models, and {' and '.join(names[:3])} answer the same "
            "whenever they are asked: leave it out"
        )
    return Request(
        config=config,
        subset=subset,
        sources=tuple(sources),
        models=models,
        weights=weights,
        cells=tuple(_different(cells, losses)),
        device=device,
        elsewhere=elsewhere,
        explained=explained,
        fooled=fooled,
    )


def replan(config: RunConfig, identity: RunIdentity, digests: Mapping[int, str]) -> Request:
    """A request that another process has checked in full, once more here: by a job, for some of its work.

    Models are compared with the identity when they are loaded, images with their digests when they are read.

    Args:
        config: what is asked for.
        identity: what the process that checked it made of it.
        digests: of the images.

    Raises:
        RequestError: something is not as it was there.
    """
    sources = find_sources(config)
    subset = EvalSubset.of(Checked(open_images(config, sources), digests), config.limit)
    device = choose_device(config.device)
    found = {
        "version": VERSION,
        "torch": versions()["torch"],
        "device": torch.device(device).type,
        "plugins": config.plugin_digests,
        "images": len(subset),
        "preprocessing": str(subset.dataset.preprocessing),
        "classes": len(subset.class_names),
    }
    check_same(found, {key: getattr(identity, key) for key in found})

    def compared(model: Model) -> Model:
        if model.weights_sha256 != identity.weights[model.name]:
            raise RequestError(
                f"the weights of model {model.name!r} on {socket.gethostname()} are others than where the run was "
                f"submitted (SHA-256 {model.weights_sha256[:12]} and {identity.weights[model.name][:12]}): copy them"
            )
        return prepared(config, subset, device, model)

    return Request(
        config=config,
        subset=subset,
        sources=tuple(source.for_classes(subset.class_names) for source in sources),
        models=ModelCache(compared),
        weights=identity.weights,
        cells=identity.cells,
        device=device,
        explained=explained_subset(config, subset),
        fooled=fooled_subset(config, subset),
    )


def prepared(config: RunConfig, subset: EvalSubset, device: str, model: Model) -> Model:
    """The model on the run's device, with the fast copy that attacks query."""
    model = adapt_model(model, subset.batch(0, 2).images, device)
    if config.eot > 1 and is_random(model.classifier, subset.batch(0, FEW).images.to(device)):
        model = average_draws(model, draws=config.eot, seed=config.seed)
    # Threads share the generators that an averaged model draws from.
    alone = torch.device(device).type != "cpu" or draws_of(model.classifier) > 1
    made = make_fast_copy(
        model,
        compiled=config.compile,
        memory_format=config.memory_format,
        precision=config.precision,
        replicas=1 if alone else threads_for(config, subset),
    )
    # TorchScript takes no hooks.
    if not (has_known_modules_alone(model.classifier) or isinstance(model.classifier, torch.jit.ScriptModule)):
        model.classifier.register_forward_hook(SameForm())
    return made


def threads_for(config: RunConfig, subset: EvalSubset) -> int:
    """CPU threads to use: for images of few pixels, sharing their small tensors out costs more than it gives."""
    if config.threads is not None:
        return config.threads
    _, height, width = subset.image_shape
    return 1 if height * width < SMALL_IMAGE else torch.get_num_threads()


def _criteria(config: RunConfig, class_names: Sequence[str]) -> tuple[str, ...]:
    """What is asked for, with classes by index: one criterion, or one for each class that is a target."""
    name, _, argument = config.criterion_text.partition(":")
    if argument in class_names:
        return (f"{name}:{class_names.index(argument)}",)
    if argument != EACH:
        return (str(make_criterion(config.criterion_text)),)
    if config.distances:
        raise RequestError("distances are to one criterion, and target each makes one of each class: leave out either")
    return tuple(f"{name}:{index}" for index in range(len(class_names)))


def _attacked_shape(config: RunConfig, subset: EvalSubset) -> tuple[int, int, int]:
    """Shape of what is attacked: an encoding has a channel more for each of an image's."""
    channels, height, width = subset.image_shape
    return channels * (2 if config.space == "encoded" else 1), height, width


def _different(cells: Sequence[Cell], losses: Mapping[str, str]) -> Iterator[Cell]:
    """Cells without duplicates: ``auto`` and ``ce`` are the same loss for a model whose card says ce."""
    seen = set()
    for cell in cells:
        meant = replace(cell, attack=cell.attack.with_loss(losses[cell.model]))
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
                f"images {index} is not among the {len(images)} images of this run: give indices of "
                f"{images.dataset.name} such as {', '.join(map(str, images.indices[:3]))}, or a larger limit"
            )
    # A dict keeps the order and drops duplicates.
    indices = tuple(dict.fromkeys((*config.images, *images.indices[: config.explanations])))
    return EvalSubset(images.dataset, indices) if indices else None


def fooled_subset(config: RunConfig, images: EvalSubset) -> EvalSubset | None:
    """The images whose explanations are attacked, or ``None`` where none are."""
    return EvalSubset(images.dataset, images.indices[: config.fooled]) if config.map_goals else None


def portable_name(dataset: str) -> str:
    """The dataset's name without the path of its folder, which differs between machines."""
    kind, _, path = dataset.partition(":")
    return f"{kind}:{Path(path).resolve().name}" if path else dataset


def check_precision(precision: Precision, device: str) -> None:
    """Reject a precision that the device does not support.

    Raises:
        RequestError: TF32 without a GPU.
    """
    if precision == "tf32" and not device.startswith("cuda"):
        raise RequestError(f"precision tf32 is how NVIDIA's GPUs round, and the device is {device}: use fp32 or bf16")


def find_sources(config: RunConfig) -> tuple[ModelSource, ...]:
    """The models of a request, or the dataset's whole zoo where it names none.

    Raises:
        RequestError: one is not to be found, or two are called the same.
    """
    zoo = Zoo(config.zoo)
    found: dict[str, ModelSource] = {}
    if config.weights is not None:
        checkpoint = find_weights(
            config.weights,
            config.architecture,
            encoding=config.encoding,
            arguments=config.argument,
            ema=config.ema,
            templates=config.templates,
        )
        found[checkpoint.name] = checkpoint
    patterns: Sequence[str] = config.model
    if not patterns and not found:
        patterns = zoo.at_hand(models_of(config.dataset))
    of_file = frozenset(found)
    for pattern in patterns:
        # A card has its own encoding, and beside a weights file what is stated is the file's.
        stated = config.encoding if ":" in pattern and not of_file else None
        for source in find_models(pattern, zoo, stated, config.templates):
            if source.name in of_file:
                raise RequestError(f"--weights and --model are both called {source.name!r}: rename the weights file")
            found[source.name] = source
    if config.classes is None:
        return tuple(found.values())
    names = read_class_order(config.classes).names
    return tuple(source.for_classes(names) for source in found.values())
