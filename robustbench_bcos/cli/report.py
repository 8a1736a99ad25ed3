"""``report``: print the table of a run, and write its files again."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.run_files import RESULTS, check_place, is_run
from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import print_report, results
from robustbench_bcos.core.disk import disk_explained
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from robustbench_bcos.reports.run_folder import RunFolder


EXAMPLES = (
    "report runs/NAME",
    "report runs/NAME --images 3,14,15",
    "report runs/NAME --figure-format pdf",
    "report /archive/NAME --out report",
    "report runs/NAME --format latex > table.tex",
)


@takes(
    "images",
    "figures",
    "figure_format",
    "zoo",
    "plugin",
    images={"default": None},
    figures={"help": "Write the tables alone."},
)
def report(
    flags: Flags,
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `run` has written.")],
    robustbench: Annotated[
        Path | None,
        typer.Option(
            "--robustbench", metavar="DIR", help="Also write cells of AutoAttack as RobustBench's JSON files."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to, which is empty or has this report; by default RUN.", show_default=False),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option("--format", help="csv, markdown, latex (booktabs) or html: print a table for a paper alone."),
    ] = None,
) -> None:
    """Print the table of a run, and write its tables, figures and page again.

    With --format, print its accuracies as papers do and write nothing: models as rows, epsilons as columns, few steps
    before many in a cell.
    """
    if style is not None and (robustbench or out or not flags.keys() <= {"plugin", "zoo"}):
        raise RequestError(f"--format {style} prints a table and writes nothing: leave out what says what to write")
    if "images" in flags and "figures" in flags:
        raise RequestError("--images chooses what is in the figures, which --no-figures leaves out: give one of them")
    config = make_config(flags)
    # Not above: --help needs none of it.
    from robustbench_bcos.bench.folder import alone, read_description

    read_description(folder)
    if style is None and out is None and not os.access(folder, os.W_OK):
        raise RequestError(f"{folder} cannot be written: say with --out where the report goes")
    if out is not None:
        _check_place(out)
    if style is not None:
        _print_table(folder, style)
        return
    inside = out is None or (out.exists() and out.samefile(folder))
    # A run that ends meanwhile would find its files replaced by those of what it was before.
    with alone(folder) if inside else nullcontext():
        _report(folder, config, out or folder, robustbench)


def _report(folder: Path, config: RunConfig, out: Path, robustbench: Path | None) -> None:
    from robustbench_bcos.reports.report import write_report
    from robustbench_bcos.reports.run_folder import read_run

    run = read_run(folder)
    if run.missing:
        results.print(f"{run.missing} of {len(run.identity.cells)} cells are not complete and are left out.")
    if robustbench is not None:
        _write_robustbench(run, robustbench, config.zoo)
    if len(run.records):
        _place(run, out)
        files = write_report(
            run, figures=config.figures, images=config.images, formats=config.figure_format, folder=out
        )
        print_report(run, files, out)


def _check_place(folder: Path) -> None:
    """Refuse a place where no report can be, whatever is in it."""
    with disk_explained(folder):
        if not (folder / RESULTS).is_file():
            check_place(folder)


def _place(run: "RunFolder", folder: Path) -> None:
    """Make a folder for a report, unless it holds others' files: none is replaced, and no report stands among them."""
    from robustbench_bcos.core.disk import made
    from robustbench_bcos.reports.spreadsheet import csv_of

    made(folder)
    if folder.samefile(run.folder):
        return
    there = folder / RESULTS
    others = sorted(entry.name for entry in folder.iterdir())
    if others and not (there.is_file() and there.read_bytes() == csv_of(run.records).encode() and not is_run(folder)):
        raise RequestError(f"--out {folder} holds other files ({others[0]}): choose a new folder")


def _print_table(folder: Path, style: str) -> None:
    from robustbench_bcos.reports.comparison_formats import FORMATS
    from robustbench_bcos.reports.paper import paper_table
    from robustbench_bcos.reports.run_folder import read_run

    write = FORMATS[style]
    typer.echo(write(paper_table(read_run(folder), fractions=style == "csv")), nl=False)


def _write_robustbench(run: "RunFolder", folder: Path, zoo: tuple[Path, ...]) -> None:
    from robustbench_bcos.model_zoo.cards import Zoo
    from robustbench_bcos.reports.robustbench import export_robustbench

    files, notes = export_robustbench(run, folder, Zoo(zoo))
    for line in [f"RobustBench's files: {', '.join(map(str, files))}", *notes]:
        results.print(line, markup=False, soft_wrap=True)
