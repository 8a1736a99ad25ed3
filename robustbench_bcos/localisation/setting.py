"""What a game is played with, checked in full before the first attack: images, models, methods, threats."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.folder import LOCALISATION, Session
from robustbench_bcos.bench.foreseen import check_radius
from robustbench_bcos.bench.images import open_images
from robustbench_bcos.bench.models import ModelCache
from robustbench_bcos.bench.preconditions import check_model, try_model
from robustbench_bcos.bench.provenance import command, commit, describe_device, versions
from robustbench_bcos.bench.request import check_precision, find_sources, portable_name, prepared, threads_for
from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.types import PerImage
from robustbench_bcos.core.version import VERSION
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations.explanation import explain, method_for
from robustbench_bcos.localisation import GAMES
from robustbench_bcos.localisation.config import LocaliseConfig, check_game
from robustbench_bcos.localisation.game import AbstractGame
from robustbench_bcos.localisation.scene import Scenes
from robustbench_bcos.model_zoo.models import Model, ModelSource

ASKED_TOGETHER = 256
"""Images of the evaluation subset that a model classifies at a time, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """Images and models, and what the models say of the images."""

    config: LocaliseConfig
    subset: EvalSubset
    sources: tuple[ModelSource, ...]
    models: ModelCache
    device: str
    """Of this process."""
    elsewhere: str | None = None
    """The device of jobs, where it is another one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(source.name for source in self.sources)

    def model(self, name: str) -> Model:
        """A model of that name, ready to be asked."""
        return self.models.get(next(source for source in self.sources if source.name == name))

    def outputs(self, name: str) -> int:
        """How many logits a model gives."""
        return _outputs(self, name)

    def confidences(self, name: str) -> PerImage:
        """A model's confidence in the label of each image of the subset; 0 where it predicts another class."""
        return _confidences(self, name)


@cache
def _outputs(setting: Setting, name: str) -> int:
    with torch.no_grad():
        logits: Tensor = setting.model(name).classifier(setting.subset.batch(0, 1).images.to(setting.device))
    return logits.shape[1]


@cache
def _confidences(setting: Setting, name: str) -> PerImage:
    model, subset, found = setting.model(name), setting.subset, []
    size = BatchSize(setting.config.batch_size or ASKED_TOGETHER)
    for attempt in size.over(len(subset)):
        indices = subset.indices[attempt.start : attempt.stop]
        with attempt, failures_named(model, subset.dataset, indices, "on clean images"), torch.no_grad():
            images, labels, _ = subset.batch(attempt.start, attempt.stop).on(setting.device)
            logits = model.classifier(images)
            own = model.trained_with.confidences(logits, labels)
            found.append(own.masked_fill(predicted_classes(logits) != labels, 0).cpu())
    return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class Play:
    """A game that has been checked, and who plays it."""

    setting: Setting
    game: AbstractGame
    scenes: Mapping[str, Scenes]
    """By model."""
    methods: Mapping[str, tuple[str, ...]]
    """By model."""
    cells: Mapping[str, tuple[Cell, ...]]
    """Attacks by model; none where pictures stay clean."""
    notes: tuple[str, ...]
    """What a reader of a number must know, a sentence each."""

    @property
    def work(self) -> int:
        """Pictures of all models."""
        return sum(scenes.count for scenes in self.scenes.values())

    def to_json(self) -> dict[str, Any]:
        """All that decides the numbers: batch size and number of threads do not."""
        config, setting = self.setting.config, self.setting
        left_out = {"batch_size", "threads", "data_dir", "zoo", "log", "plugin", "figures", "figure_format"}
        left_out |= {"jobs", "executor", "job_minutes", "slurm"}
        asked = config.model_dump(mode="json", exclude=left_out)
        return {
            LOCALISATION: asked | {"dataset": portable_name(config.dataset)},
            "weights": {name: setting.model(name).weights_sha256 for name in setting.names},
            "subset": setting.subset.digest,
            "scenes": {name: scenes.digest for name, scenes in self.scenes.items()},
            "pictures": {name: scenes.count for name, scenes in self.scenes.items()},
            "device": torch.device(setting.elsewhere or setting.device).type,
            "version": VERSION,
            "torch": versions()["torch"],
        }

    def describe(self) -> Session:
        """What else a reader may want to know of this session."""
        subset = self.setting.subset
        return {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command(),
            "configuration": self.setting.config.model_dump(mode="json"),
            "class_names": subset.class_names,
            "images": [*subset.notes, *self.notes],
            "versions": versions(),
            "device": describe_device(self.setting.device),
            "commit": commit(),
        }

    @property
    def config(self) -> LocaliseConfig:
        """What is asked for."""
        return self.setting.config

    @property
    def device(self) -> str:
        """Of this process."""
        return self.setting.device

    @property
    def threads(self) -> int:
        """CPU threads to use."""
        return threads_for(self.setting.config, self.setting.subset)

    @cached_property
    def digest(self) -> str:
        """Eight characters that only this configuration has."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def folder_name(self) -> str:
        """A name that only this configuration has."""
        return f"localise-{self.config.dataset.partition(':')[0]}-{self.game.name}-{self.digest}"


def prepare(config: LocaliseConfig) -> Play:
    """Check a configuration against the data, the models and the machine.

    Raises:
        RequestError: it cannot be carried out as asked.
    """
    sources = find_sources(config)
    subset = EvalSubset.of(open_images(config, sources), config.limit)
    return check_play(config, subset, sources)


def check_play(config: LocaliseConfig, subset: EvalSubset, sources: Sequence[ModelSource]) -> Play:
    """Check models and images that are at hand.

    Raises:
        RequestError: they cannot be used as asked.
    """
    check_game(config)
    elsewhere = EXECUTORS[config.executor].device_of_jobs(config)
    device = "cpu" if elsewhere else choose_device(config.device)
    check_precision(config.precision, elsewhere or device)
    models = ModelCache(lambda model: prepared(config, subset, device, model))
    named = tuple(source.for_classes(subset.class_names) for source in sources)
    setting = Setting(config=config, subset=subset, sources=named, models=models, device=device, elsewhere=elsewhere)
    for name in setting.names:
        kind = GAMES[config.game]
        sized, classes = kind.sized, kind.same_classes
        check_model(setting.model(name), subset, device=device, space="image", sized=sized, classes=classes)
    game = GAMES[config.game](config)
    scenes = {name: game.scenes(setting, name) for name in setting.names}
    methods, notes = _methods(setting, game, scenes)
    cells = {name: tuple(make_cells(config, [name])) if config.attacked else () for name in setting.names}
    for cell in (cell for some in cells.values() for cell in some):
        example = scenes[cell.model].make(0)
        unit = example.units[0].box
        eps = Quantity(cell.threat.text, cell.threat.radius)
        check_radius(cell.threat.norm, eps, (example.picture.shape[0], unit.height, unit.width))
    said = [note for name in setting.names for note in scenes[name].notes]
    if not config.attacked and not config.condition:
        notes.append(
            "Pictures are clean: no radius goes without saying for these images; give eps to attack them, too."
        )
    return Play(
        setting=setting,
        game=game,
        scenes=scenes,
        methods=methods,
        cells=cells,
        notes=tuple(dict.fromkeys(said + notes)),
    )


def _methods(
    setting: Setting, game: AbstractGame, scenes: Mapping[str, Scenes]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The methods that serve each model, tried on a scene; and why others do not."""
    found: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for name in setting.names:
        model, scene = setting.model(name), scenes[name].make(0)
        picture = game.shown(scene)[None].to(setting.device)
        _check_size(model, picture)
        serving, refusals = [], []
        for asked in setting.config.method:
            method = method_for(model.classifier, asked)
            try:
                explain(model.classifier, picture, scene.targets[0], method)
                serving.append(method)
            except RequestError as error:
                refusals.append(str(error))
        if not serving:
            raise RequestError(f"method {setting.config.method[0]} cannot serve model {name!r}: {refusals[0]}")
        notes += [f"{name}: {reason}." for reason in refusals]
        found[name] = tuple(dict.fromkeys(serving))
    return found, notes


def _check_size(model: Model, picture: Tensor) -> None:
    """Whether a model takes pictures as large as the game's, which grow with the number of cells.

    Raises:
        RequestError: it does not.
    """
    height, width = picture.shape[2:]
    remedy = (
        f"a scene of the game has {height}x{width} pixels, which models of one size, such as vision transformers, "
        "do not take; choose models that pool over positions"
    )
    try_model(model, picture, str(picture.device), remedy)
