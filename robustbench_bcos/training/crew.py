"""The trainings of a suite, one after another in this process, or as the units of an executor."""

import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.dispatch import Dispatch, no_progress
from robustbench_bcos.bench.executor import AbstractExecutor, AbstractJobs
from robustbench_bcos.bench.job import AbstractJob, ordered_configuration
from robustbench_bcos.bench.job_folder import FAILED, WHOLE, JobFolder
from robustbench_bcos.bench.request import SMALL_IMAGE
from robustbench_bcos.bench.run_files import LOCK
from robustbench_bcos.bench.status import Inventory
from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.disk import held, made
from robustbench_bcos.core.errors import RequestError, named_reason_of
from robustbench_bcos.core.trainings import ENDING
from robustbench_bcos.data.class_order import read_class_order
from robustbench_bcos.model_zoo.cards import Card
from robustbench_bcos.training.logs import read_log
from robustbench_bcos.training.recipes import Recipe, Training
from robustbench_bcos.training.trainer import Epoch
from robustbench_bcos.training.workshop import dataset_of, make_model, split_digests

Watch = Callable[[Training, Epoch], None]
"""Called after every epoch of a training in this process."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one training."""

    name: str
    card: Card | None = None
    """``None`` where it failed."""
    failure: str = ""
    """In one sentence."""
    details: str = ""
    """The traceback of a failure that nobody foresaw."""


def train_all(
    trainings: Sequence[Training],
    kind: type[AbstractExecutor],
    *,
    config: RunConfig,
    dataset: str | None,
    folder: Path,
    watch: Watch,
) -> Generator[Outcome, None, None]:
    """Make every model, and give outcomes as they come; one that fails does not keep the others from theirs.

    Leaving the iterator, by an interruption too, ends what must not go on; what is trained so far is in checkpoints.

    Args:
        trainings: what is to be trained.
        kind: where; in this process one after another.
        config: what is asked for of images and machines.
        dataset: images; by default each recipe's own.
        folder: of the models.
        watch: told of each epoch of a training in this process.

    Raises:
        RequestError: other jobs train in this folder, jobs cannot see it, or are refused.
        Interrupted: somebody has cancelled them.
    """
    if not trainings:
        return
    if issubclass(kind, AbstractJobs):
        crew = Crew(kind=kind, config=config, dataset=dataset, folder=folder, trainings=trainings)
        yield from crew.outcomes()
        return
    for training in trainings:
        name = training.recipe.name
        try:
            yield Outcome(name=name, card=make(training, config, dataset, folder, partial(watch, training)))
        except RequestError as error:
            yield Outcome(name=name, failure=str(error))
        except Exception as error:  # An unforeseen error of one training must not stop the others.
            yield Outcome(name=name, failure=named_reason_of(error), details=traceback.format_exc())


def make(
    training: Training,
    config: RunConfig,
    dataset: str | None,
    folder: Path,
    on_epoch: Callable[[Epoch], None],
    *,
    threads: int | None = None,
    images: Mapping[str, Sequence[str]] | None = None,
) -> Card:
    """Make one model, in this process.

    Args:
        training: what is to be trained.
        config: what is asked for of images and machines.
        dataset: images; by default the recipe's own.
        folder: of the model.
        on_epoch: called after every epoch.
        threads: where neither the configuration nor the size of images says.
        images: digests that images must have, by dataset, where another process has asked for it.

    Raises:
        RequestError: as :func:`make_model`.
    """
    recipe = training.recipe
    height, width = recipe.image_size
    # One thread for small images, so that weights do not depend on the number of cores.
    few = 1 if height * width < SMALL_IMAGE else None
    torch.set_num_threads(config.threads or few or threads or torch.get_num_threads())
    name = dataset_of(recipe, dataset)
    return make_model(
        recipe,
        folder,
        dataset=name,
        **_opened(config),
        device=config.device,
        compiled=config.compile,
        fold=training.fold,
        on_epoch=on_epoch,
        elsewhere=None if images is None else images[_images_of(recipe, dataset)],
    )


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Trainings that jobs carry out; each has a unit of its own."""

    kind: type[AbstractJobs]
    """What they are submitted to."""
    config: RunConfig
    """What is asked for of images and machines."""
    dataset: str | None
    """Images; by default each recipe's own."""
    folder: Path
    """Of the models."""
    trainings: Sequence[Training]

    @property
    def device(self) -> str:
        """Of this process."""
        return "cpu" if self.kind.device_of_jobs(self.config) else choose_device(self.config.device)

    @property
    def digest(self) -> str:
        """Eight characters that these trainings alone have."""
        names = " ".join(training.name for training in self.trainings)
        return sha256(names.encode()).hexdigest()[:8]

    def outcomes(self) -> Iterator[Outcome]:
        """Have every model made, and give outcomes as they come; leaving the iterator ends what does not outlive it.

        Raises:
            RequestError: another process does so in this folder, jobs cannot see it, or are refused.
            Interrupted: somebody has cancelled them.
        """
        jobs = JobFolder(made(self.folder))
        self.kind.check_folder(self.folder)
        busy = f"trainings in {self.folder} are in the hands of another process: wait for it, or choose another --out"
        with held(self.folder / LOCK, busy=busy):
            jobs.open()
            with Dispatch[Training](
                self.kind, self, jobs=jobs, job=TrainingJob, order=self._order(), costs=self._epochs
            ) as dispatch:
                for training, endings, _ in dispatch.answers(self.trainings, self._progress):
                    yield _outcome(jobs, training, endings)
            jobs.clear()

    def _order(self) -> dict[str, Any]:
        opened = {
            _images_of(training.recipe, self.dataset): (dataset_of(training.recipe, self.dataset), training.recipe)
            for training in self.trainings
        }
        images = {
            images: split_digests(name, framing=recipe.framing, **_opened(self.config))
            for images, (name, recipe) in sorted(opened.items())
        }
        return {"dataset": self.dataset, "images": images}

    def _epochs(self) -> dict[str, int]:
        """What trainings cost."""
        return {training.recipe.name: training.recipe.epochs for training in self.trainings}

    def _progress(self, training: Training) -> object:
        """What every epoch changes."""
        try:
            return (self.folder / f"{training.recipe.name}.ckpt").stat().st_mtime_ns
        except OSError:
            return None


def inventory(folder: Path) -> Inventory:
    """Of a folder of models: what their logs have, and what jobs were told of them."""
    asked: dict[str, int] = JobFolder(folder).earlier_order().get("costs", {})
    logs = {file.name.removesuffix(ENDING): len(read_log(file)) for file in sorted(folder.glob(f"*{ENDING}"))}
    parts: dict[str, tuple[int, int | None]] = {}
    for name, done in {**dict.fromkeys(asked, 0), **logs}.items():
        made = (folder / f"{name}.toml").is_file()
        parts[name] = done, 0 if made else asked[name] - done if name in asked else None
    complete = bool(parts) and all(left == 0 for _, left in parts.values())
    return Inventory(part="model", amount="epochs", parts=parts, results=folder if complete else None)


def _images_of(recipe: Recipe, dataset: str | None) -> str:
    """What tells images apart that trainings ask for: where they come from, and how a recipe frames them."""
    return dataset_of(recipe, dataset) + (f", {recipe.framing}" if recipe.framing is not None else "")


def _outcome(jobs: JobFolder, training: Training, endings: set[str]) -> Outcome:
    name = training.recipe.name
    if WHOLE in endings:
        return Outcome(name=name, card=Card.model_validate_json(jobs.answered(training)))
    failure = jobs.failure(training) if FAILED in endings else no_progress(jobs, training)
    return Outcome(name=name, failure=str(failure), details="".join(getattr(failure, "__notes__", ())))


class TrainingJob(AbstractJob):
    """Makes models in the folder of the submitter; a checkpoint there has what is trained so far."""

    def attempt(self, unit: Training, name: str, check: Callable[[], None]) -> None:
        """Make a model, and answer with its card."""
        order = self.order
        config = ordered_configuration(RunConfig, order)
        card = make(
            unit,
            config,
            order["dataset"],
            self.jobs.run,
            lambda epoch: check(),
            threads=self.threads,
            images=order["images"],
        )
        self.jobs.answer(unit, name, card.model_dump_json())


def _opened(config: RunConfig) -> dict[str, Any]:
    """How images are opened."""
    order = None if config.classes is None else read_class_order(config.classes)
    return {"data_dir": config.data_dir, "class_order": order}
