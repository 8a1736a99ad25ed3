"""``curves``: how trainings went, as a figure."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_bcos.cli.listed import LIST, split
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.text import counted
from robustbench_bcos.core.trainings import find_logs

EXAMPLES = (
    "curves mine",
    "curves mine --model 'digits-*' --figure trainings.png",
)


def curves(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `train` has written to.")],
    model: Annotated[
        list[str] | None, typer.Option(help=f"Names of trainings or globs; by default all of the folder. {LIST}")
    ] = None,
    figure: Annotated[Path, typer.Option(help="Where to, as this name with .png and .pdf.")] = Path("curves"),
) -> None:
    """Draw loss and accuracy by epoch, a line for each recipe with its spread over seeds or folds."""
    patterns = split("--model", model)
    find_logs(folder, patterns)
    # This imports Matplotlib; a mistake that can be told without it has been told.
    from robustbench_bcos.reports.learning import learning_curves, read_logs
    from robustbench_bcos.reports.style import write_figure

    logs = read_logs(folder, patterns)
    files = write_figure(learning_curves(logs), figure.parent, figure.name.removesuffix(".png").removesuffix(".pdf"))
    count, recipes = logs["model"].nunique(), logs["recipe"].nunique()
    told = f"{counted(count, 'training')} of {counted(recipes, 'recipe')}"
    results.print(f"{told}: {', '.join(map(str, files))}", markup=False, soft_wrap=True)
