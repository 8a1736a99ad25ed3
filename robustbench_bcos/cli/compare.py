"""``compare``: models and runs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from robustbench_bcos.reports.comparison import Comparison


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or CSVs that runs have written.")],
    by: Annotated[str | None, typer.Option(help="Group by architecture, family, training, B or norm.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="What differences are to; by default the first model, or recipe.")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by; with a minus in front, largest first.")] = None,
    where: Annotated[
        str | None, typer.Option("--filter", help="Rows to keep: \"norm == 'l2' and epsilon > 0.1\".")
    ] = None,
    across_seeds: Annotated[
        bool, typer.Option("--across-seeds", help="Compare recipes over their trainings (NAME-seed0, NAME-fold0, ...).")
    ] = False,
    style: Annotated[
        str | None, typer.Option("--format", help="csv, markdown, latex (booktabs) or html, instead of a table.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With --across-seeds: violins, as this name with .png and .pdf.")
    ] = None,
) -> None:
    """Put models and runs side by side, with paired statistics, and say what else differs between them."""
    if figure is not None and not across_seeds:
        raise RequestError(
            "--figure draws trainings side by side: give --across-seeds too, or see the figures of a run"
        )
    if across_seeds and by is not None:
        raise RequestError("--by groups models and --across-seeds trainings: give one of them")
    from robustbench_bcos.reports.comparison import compare as put_side_by_side
    from robustbench_bcos.reports.comparison import compare_trainings, trainings
    from robustbench_bcos.reports.comparison_formats import FORMATS
    from robustbench_bcos.reports.results import read_results

    write = None if style is None else FORMATS[style]
    places = [run.resolve() for run in runs]
    if twice := [run for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise RequestError(f"{twice[0]} is given twice: give each run once")
    found = [read_results(run) for run in runs]
    if across_seeds:
        comparison = compare_trainings(found, reference=reference, where=where)
    else:
        comparison = put_side_by_side(found, by=by, reference=reference, where=where)
    comparison = _sorted(comparison, sort)
    if write is None:
        _print(comparison)
    else:
        typer.echo(write(comparison), nl=False)
    if figure is not None:
        from robustbench_bcos.reports.style import write_figure
        from robustbench_bcos.reports.violins import training_violins

        stem = figure.name.removesuffix(".png").removesuffix(".pdf")
        files = write_figure(training_violins(trainings(found, where)), figure.parent, stem)
        typer.echo(f"Written: {', '.join(map(str, files))}", err=True)


def _sorted(comparison: "Comparison", column: str | None) -> "Comparison":
    if column is None:
        return comparison
    from robustbench_bcos.core.registry import unknown

    name = column.removeprefix("-")
    if name not in comparison.table:
        raise unknown("column to sort by", name, map(str, comparison.table.columns))
    table = comparison.table.sort_values(name, ascending=not column.startswith("-"), kind="stable")
    return comparison._replace(table=table)


def _print(comparison: "Comparison") -> None:
    from rich.markup import escape
    from rich.table import Column, Table
    from rich.text import Text

    from robustbench_bcos.reports.comparison_formats import readable

    shown = readable(comparison.table)
    # Folded where the terminal is narrow: Rich would cut names and digits off.
    table = Table(*(Column(escape(str(name)), overflow="fold") for name in shown), pad_edge=False)
    for row in shown.itertuples(index=False):
        table.add_row(*(Text(str(cell)) for cell in row))
    results.print(table)
    for note in comparison.notes:
        results.print(note, markup=False)
