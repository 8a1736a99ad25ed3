"""``train``: make a model and its card from a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_bcos.cli.output import errors, results
from robustbench_bcos.core.errors import Interrupted


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name or TOML file; without one, the recipes are listed.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for weights, card and log; usable as --zoo.")] = Path("trained"),
    dataset: Annotated[str | None, typer.Option(help="By default the recipe's: digits, cifar10, folder:DIR.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where cifar10 lies.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Override the recipe.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Override the recipe.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
) -> None:
    """Make a model and its card from a recipe.

    The same command continues a training that was interrupted, from its last whole epoch.
    """
    from robustbench_bcos.training.recipes import RECIPES

    if recipe is None:
        results.print("\n".join(RECIPES.names()))
        return
    chosen = RECIPES.load(recipe)
    overrides = {"epochs": epochs, "seed": seed}
    chosen = chosen.model_copy(update={key: value for key, value in overrides.items() if value is not None})
    from robustbench_bcos.training.workshop import make_model

    try:
        card = make_model(
            chosen,
            out,
            dataset=dataset or chosen.dataset,
            data_dir=data_dir,
            device=device,
            compiled=compiled,
            on_epoch=lambda epoch: errors.print(
                f"epoch {epoch.number:3d} of {chosen.epochs}  loss {epoch.loss:.4f}  "
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
