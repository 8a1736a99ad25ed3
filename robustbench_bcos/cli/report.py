"""``report``: print the table of a run, and write its files again."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_bcos.cli.output import print_report, results


def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `run` has written.")]) -> None:
    """Print the table of a run, and write its files again."""
    from robustbench_bcos.reports.exports import export
    from robustbench_bcos.reports.run_folder import read_run

    run = read_run(folder)
    if run.missing:
        results.print(f"{run.missing} of {len(run.identity['cells'])} cells are not complete and are left out.")
    if len(run.records):
        print_report(run, export(run))
