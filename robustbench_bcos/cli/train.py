"""``train``: make a model and its card from a recipe, once or several times."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from robustbench_bcos.cli.output import errors, results
from robustbench_bcos.core.errors import Interrupted, RequestError

if TYPE_CHECKING:
    from robustbench_bcos.training.recipes import Recipe


class Training(NamedTuple):
    """One of the trainings of a recipe."""

    recipe: "Recipe"
    fold: tuple[int, int] | None = None
    """Which part of the training images is left out, and of how many."""


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name or TOML file; without one, the recipes are listed.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for weights, card and log; usable as --zoo.")] = Path("trained"),
    dataset: Annotated[str | None, typer.Option(help="By default the recipe's: digits, cifar10, folder:DIR.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where cifar10 lies.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Override the recipe.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Override the recipe.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Train once for each seed, 0..4 or 0,3,7; models are called NAME-seed0, ...")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Train so many times, each without another part of the images: NAME-fold0, ..."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
) -> None:
    """Make a model and its card from a recipe.

    The same command continues a training that was interrupted, from its last whole epoch; models that are done are
    not trained again with --seeds and --folds.
    """
    from robustbench_bcos.training.recipes import RECIPES

    if recipe is None:
        results.print("\n".join(RECIPES.names()))
        return
    if sum(option is not None for option in (seed, seeds, folds)) > 1:
        raise RequestError("--seed, --seeds and --folds each say how often to train: give one of them")
    chosen = RECIPES.load(recipe)
    overrides = {"epochs": epochs, "seed": seed}
    chosen = chosen.model_copy(update={key: value for key, value in overrides.items() if value is not None})
    trainings = list(_trainings(chosen, None if seeds is None else parse_seeds(seeds), folds))
    for training in trainings:
        card = out / f"{training.recipe.name}.toml"
        if (seeds is not None or folds is not None) and card.is_file():
            results.print(f"{training.recipe.name}: trained already; remove {card} to train it again", markup=False)
        else:
            _train_one(training, out, dataset, data_dir, device, compiled)


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


def _trainings(recipe: "Recipe", seeds: tuple[int, ...] | None, folds: int | None) -> Iterator[Training]:
    if seeds is not None:
        for seed in seeds:
            yield Training(recipe.model_copy(update={"name": f"{recipe.name}-seed{seed}", "seed": seed}))
    elif folds is not None:
        for fold in range(folds):
            yield Training(recipe.model_copy(update={"name": f"{recipe.name}-fold{fold}"}), (fold, folds))
    else:
        yield Training(recipe)


def _train_one(
    training: Training, out: Path, dataset: str | None, data_dir: Path | None, device: str, compiled: bool
) -> None:
    from robustbench_bcos.training.workshop import make_model

    recipe = training.recipe
    try:
        card = make_model(
            recipe,
            out,
            dataset=dataset or recipe.dataset,
            data_dir=data_dir,
            device=device,
            compiled=compiled,
            fold=training.fold,
            on_epoch=lambda epoch: errors.print(
                f"epoch {epoch.number:3d} of {recipe.epochs}  loss {epoch.loss:.4f}  "
                f"train accuracy {100 * epoch.accuracy:.1f} %  {epoch.seconds:.1f} s"
            ),
        )
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; repeat the same command to continue from the last epoch in {out}") from None
    clean = card.clean_accuracy
    assert clean is not None
    results.print(
        f"{card.name}: {clean.correct} of {clean.total} test images correct, "
        f"{100 * clean.correct / clean.total:.1f} %; weights, card and log are in {out}"
    )
