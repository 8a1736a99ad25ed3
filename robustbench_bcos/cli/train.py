"""``train``: make models and their cards from a recipe, once or several times, or from what a suite says."""

import re
from collections.abc import Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.config import SUITES, RunConfig
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.run_files import JOBS, is_run
from robustbench_bcos.cli.jobs import Cancel, Status, told_of_jobs
from robustbench_bcos.cli.listed import LIST, split
from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import errors, results
from robustbench_bcos.core.devices import check_device
from robustbench_bcos.core.errors import Interrupted, RequestError
from robustbench_bcos.core.trainings import find_logs, name_of
from robustbench_bcos.data.class_order import read_class_order
from robustbench_bcos.data.opening import is_dataset, locate_dataset

if TYPE_CHECKING:
    from robustbench_bcos.bench.executor import AbstractExecutor
    from robustbench_bcos.bench.status import Inventory
    from robustbench_bcos.model_zoo.cards import Card
    from robustbench_bcos.training.recipes import Training
    from robustbench_bcos.training.trainer import Epoch

FAILED = 1
"""Exit status where some of several trainings failed."""


MINUTES = 80.0
"""What a training is taken to last, where jobs have a time limit: three times as long."""

EXAMPLES = (
    "train",
    "train digits-bcos-b2 --out mine",
    "train digits-bcos-b2 --seeds 0..4 --jobs 2 --out mine",
    "train --suite digits-ablations --out mine",
    "train --suite digits-ablations --executor slurm --slurm gres=gpu:1,time=120 --out mine",
)


@takes(
    *("dataset", "data_dir", "classes", "seed", "device", "compile", "threads", "jobs", "executor", "slurm", "plugin"),
    dataset={"default": "the recipe's"},
    classes={"default": "the folders in the order of their names"},
    seed={"help": "Override the recipe.", "default": None},
    compile={"help": "Use torch.compile."},
    threads={"default": "one for small images, and otherwise torch's own choice; one of each of several `jobs`"},
    jobs={
        "help": "Trainings at a time; several are in processes of their own.",
        "default": "one; with another `executor`, as for a run",
    },
)
def train(
    flags: Flags,
    recipe: Annotated[
        str | None, typer.Argument(help="Name or TOML file; without one, the recipes are listed.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Make the models of a suite (see `suites`), or of a TOML file of one's own.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help=f"Of the suite's models, those of these names or globs. {LIST}")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for weights, card and log; usable as --zoo.")] = Path("trained"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Override the recipe.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Train once for each seed, 0..4 or 0,3,7; models are called NAME-seed0, ...")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Train so many times, each without another part of the images: NAME-fold0, ..."),
    ] = None,
    status: Status = None,
    cancel: Cancel = None,
) -> None:
    """Make a model and its card from a recipe, or all models of a suite.

    The same command continues a training that was interrupted, from its last whole epoch; models that are done are
    not trained again with --suite, --seeds, --folds and --executor. Exit status 1: some of several trainings failed.
    """
    others = (recipe, suite, model, epochs, seeds, folds)
    if told_of_jobs(flags, status, cancel=cancel, others=others, check=_check_folder, inventory=_inventory):
        return
    if recipe is None and suite is None:
        _list_recipes()
        return
    _check_options(recipe, suite, model, ["seed" in flags, seeds is not None, folds is not None])
    config, dataset = make_config({"job_minutes": MINUTES} | flags), flags.get("dataset")
    asked = {"epochs": epochs, "seed": config.seed if "seed" in flags else None}
    overrides = {key: value for key, value in asked.items() if value is not None}
    if suite is None:
        assert recipe is not None
        trainings = _of_recipe(recipe, overrides, None if seeds is None else parse_seeds(seeds), folds)
    else:
        trainings = _of_suite(suite, overrides, split("--model", model))
    check_device(config.device)
    kind = _executor(config)
    order = None if config.classes is None else read_class_order(config.classes)
    for name in {dataset or training.recipe.dataset for training in trainings}:
        if dataset is not None or is_dataset(name):
            locate_dataset(name, "train", data_dir=config.data_dir, class_order=order)
    kind.prepare("robustbench_bcos.training.crew")
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.training.workshop import check_request

    if suite is None and seeds is None and folds is None and "executor" not in flags:
        _train_one(trainings[0], config, dataset, out)
        return
    recipes = [training.recipe for training in trainings]
    check_request(recipes, dataset, data_dir=config.data_dir, class_order=order, folds=folds)
    _train_several(_missing(trainings, out), kind, config, dataset, out)


def _check_folder(folder: Path) -> None:
    """Jobs make no log before their first epoch."""
    if is_run(folder) or not (folder / JOBS).is_dir():
        find_logs(folder)


def _inventory(folder: Path) -> "Inventory":
    from robustbench_bcos.training.crew import inventory

    return inventory(folder)


def _executor(config: RunConfig) -> "type[AbstractExecutor]":
    """As asked for; several trainings at a time are in processes."""
    from robustbench_bcos.bench.executors import EXECUTORS

    kind = EXECUTORS[config.executor]
    kind.check(config)
    return kind.for_several() if (config.jobs or 1) > 1 else kind


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0..4`` with both ends, or ``0,3,7``.

    Raises:
        RequestError: it is neither, or names a seed twice.
    """
    span = re.fullmatch(r"(\d+)\.\.(\d+)", text.strip())
    if span is not None and int(span[1]) <= int(span[2]):
        return tuple(range(int(span[1]), int(span[2]) + 1))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise RequestError(f"--seeds {text} must be like 0..4 or 0,3,7, each seed once")
    return tuple(map(int, parts))


def _list_recipes() -> None:
    from robustbench_bcos.training.recipes import RECIPES

    results.print("\n".join(RECIPES.names()))


def _check_options(recipe: str | None, suite: str | None, model: Sequence[str] | None, often: Sequence[bool]) -> None:
    if sum(often) > 1:
        raise RequestError("--seed, --seeds and --folds each say how often to train: give one of them")
    if suite is None and model:
        raise RequestError("--model chooses among the models of a --suite: give one, or leave it out")
    if suite is not None and recipe is not None:
        raise RequestError(f"recipe {recipe} and --suite {suite} each say what to train: give one of them")
    if suite is not None and any(often):
        raise RequestError("--suite says itself how often to train: leave --seed, --seeds and --folds out")


def _of_recipe(
    name: str, overrides: dict[str, int], seeds: tuple[int, ...] | None, folds: int | None
) -> "list[Training]":
    from robustbench_bcos.training.recipes import RECIPES, Training

    recipe = RECIPES.load(name).model_copy(update=overrides)
    if seeds is not None:
        named = ({"name": name_of(recipe.name, seed), "seed": seed} for seed in seeds)
        return [Training(recipe=recipe.model_copy(update=update)) for update in named]
    if folds is not None:
        named = ({"name": f"{recipe.name}-fold{fold}"} for fold in range(folds))
        return [
            Training(recipe=recipe.model_copy(update=update), fold=(fold, folds)) for fold, update in enumerate(named)
        ]
    return [Training(recipe=recipe)]


def _of_suite(name: str, overrides: dict[str, int], patterns: Sequence[str]) -> "list[Training]":
    from robustbench_bcos.core.registry import unknown
    from robustbench_bcos.training.recipes import Training
    from robustbench_bcos.training.variations import vary

    said = SUITES.load(name).trainings
    if said is None:
        raise RequestError(f"suite {name} trains nothing: choose one that `suites` lists with models, or name a recipe")
    folder = Path(name).parent if name.endswith(".toml") else None
    recipes = [recipe.model_copy(update=overrides) for recipe in vary(said, f"suite {name}", folder)]
    for pattern in patterns:
        if not any(fnmatchcase(model, pattern) for model in said.models):
            raise unknown("model of the suite", pattern, said.models)
    return [
        Training(recipe=recipe)
        for recipe in recipes
        if not patterns or any(fnmatchcase(recipe.name, pattern) for pattern in patterns)
    ]


def _missing(trainings: "Sequence[Training]", out: Path) -> "list[Training]":
    """Trainings whose models are not there; of the others it is said that they are."""
    from robustbench_bcos.training.workshop import is_made

    made = [training for training in trainings if is_made(training.recipe, out)]
    for name in (training.recipe.name for training in made):
        results.print(f"{name}: trained already; remove {out / name}.toml to train it again", markup=False)
    return [training for training in trainings if training not in made]


def _train_one(training: "Training", config: RunConfig, dataset: str | None, out: Path) -> None:
    from robustbench_bcos.training.crew import make

    try:
        card = make(training, config, dataset, out, partial(_tell_epoch, training))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; repeat the same command to continue from the last epoch in {out}") from None
    results.print(f"{_accuracy(card)}; weights, card and log are in {out}", markup=False)


def _train_several(
    trainings: "Sequence[Training]",
    kind: "type[AbstractExecutor]",
    config: RunConfig,
    dataset: str | None,
    out: Path,
) -> None:
    from robustbench_bcos.training.crew import train_all

    done, failed, goes_on = 0, [], ", and jobs go on" if getattr(kind, "outlives", False) else ""
    try:
        with closing(
            train_all(trainings, kind, config=config, dataset=dataset, folder=out, watch=_tell_epoch)
        ) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                if outcome.card is None:
                    failed.append(outcome.name)
                    errors.print(outcome.details, end="", markup=False, highlight=False)
                    errors.print(f"{outcome.name} failed: {outcome.failure}", style="red", markup=False, soft_wrap=True)
                else:
                    results.print(f"{_accuracy(outcome.card)} ({done} of {len(trainings)}, in {out})", markup=False)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted after {done} of {len(trainings)} trainings{goes_on}; repeat the same command to continue in "
            f"{out}"
        ) from None
    if failed:
        errors.print(f"{len(failed)} of {len(trainings)} trainings failed: {', '.join(failed)}", markup=False)
        raise typer.Exit(FAILED)


def _tell_epoch(training: "Training", epoch: "Epoch") -> None:
    errors.print(
        f"epoch {epoch.number:3d} of {training.recipe.epochs}  loss {epoch.loss:.4f}  "
        f"train accuracy {100 * epoch.accuracy:.1f} %  {epoch.seconds:.1f} s"
    )


def _accuracy(card: "Card") -> str:
    clean = card.clean_accuracy
    assert clean is not None
    percent = 100 * clean.correct / clean.total
    return f"{card.name}: {clean.correct} of {clean.total} test images correct, {percent:.1f} %"
