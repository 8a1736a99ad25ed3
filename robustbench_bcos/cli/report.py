"""``report``: print the table of a run, and write its files again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.cli.listed import LIST, indices
from robustbench_bcos.cli.output import print_report, results
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from robustbench_bcos.reports.run_folder import RunFolder


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `run` has written.")],
    images: Annotated[
        list[str] | None, typer.Option(help=f"Dataset indices of the images in the panels: 3,14,15. {LIST}")
    ] = None,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Write the tables alone.")] = False,
    robustbench: Annotated[
        Path | None,
        typer.Option(
            "--robustbench", metavar="DIR", help="Also write cells of AutoAttack as RobustBench's JSON files."
        ),
    ] = None,
    zoo: Annotated[list[Path] | None, typer.Option(help="Folder with further cards, for facts in those files.")] = None,
) -> None:
    """Print the table of a run, and write its tables, figures and page again."""
    from robustbench_bcos.reports.report import write_report
    from robustbench_bcos.reports.run_folder import read_run

    if images and no_figures:
        raise RequestError("--images chooses what is in the figures, which --no-figures leaves out: give one of them")
    run = read_run(folder)
    if run.missing:
        results.print(f"{run.missing} of {len(run.identity.cells)} cells are not complete and are left out.")
    if robustbench is not None:
        _write_robustbench(run, robustbench, zoo)
    if len(run.records):
        print_report(run, write_report(run, figures=not no_figures, images=indices("--images", images)))


def _write_robustbench(run: "RunFolder", folder: Path, zoo: list[Path] | None) -> None:
    from robustbench_bcos.model_zoo.cards import Zoo
    from robustbench_bcos.reports.robustbench import export_robustbench

    files, notes = export_robustbench(run, folder, Zoo(zoo or ()))
    for line in [f"RobustBench's files: {', '.join(map(str, files))}", *notes]:
        results.print(line, markup=False, soft_wrap=True)
