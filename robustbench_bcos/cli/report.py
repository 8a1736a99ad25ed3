"""``report``: print the table of a run, and write its files again."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_bcos.cli.listed import LIST, indices
from robustbench_bcos.cli.output import print_report, results
from robustbench_bcos.core.errors import RequestError


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `run` has written.")],
    images: Annotated[
        list[str] | None, typer.Option(help=f"Dataset indices of the images in the panels: 3,14,15. {LIST}")
    ] = None,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Write the tables alone.")] = False,
) -> None:
    """Print the table of a run, and write its tables, figures and page again."""
    from robustbench_bcos.reports.report import write_report
    from robustbench_bcos.reports.run_folder import read_run

    if images and no_figures:
        raise RequestError("--images chooses what is in the figures, which --no-figures leaves out: give one of them")
    run = read_run(folder)
    if run.missing:
        results.print(f"{run.missing} of {len(run.identity['cells'])} cells are not complete and are left out.")
    if len(run.records):
        print_report(run, write_report(run, figures=not no_figures, images=indices("--images", images)))
