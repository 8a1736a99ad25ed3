"""``compare``: models and runs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.run_files import check_results, is_run
from robustbench_bcos.cli.listed import LIST, split
from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from robustbench_bcos.reports.comparison import Comparison
    from robustbench_bcos.reports.results import Results


EXAMPLES = (
    "compare runs/A runs/B",
    "compare runs/A --reference digits-natural --sort -accuracy",
    "compare runs/A runs/B --filter \"norm == 'l2'\" --format latex",
)


@takes("plugin")
def compare(
    flags: Flags,
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
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="With --across-seeds: columns of results.csv; by default clean_accuracy, robust_accuracy_worst and "
            f"explanation_cosine_true_attack. {LIST}"
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With --across-seeds: violins, as this name with .png and .pdf.")
    ] = None,
    over_b: Annotated[
        Path | None,
        typer.Option("--over-b", help="With --across-seeds: curves over B (names with -b1.25, -b2, ...), likewise."),
    ] = None,
) -> None:
    """Put models and runs side by side, with paired statistics, and say what else differs between them."""
    for option, given in {"--figure": figure, "--over-b": over_b, "--measure": measure}.items():
        if given and not across_seeds:
            raise RequestError(f"{option} is for trainings side by side: give --across-seeds too, or leave it out")
    if across_seeds and by is not None:
        raise RequestError("--by groups models and --across-seeds trainings: give one of them")
    places = [run.resolve() for run in runs]
    if twice := [run for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise RequestError(f"{twice[0]} is given twice: give each run once")
    # Not above: --help needs none of it.
    from robustbench_bcos.bench.folder import read_description

    for run in runs:
        check_results(run)
        if is_run(run):
            read_description(run)
    from robustbench_bcos.reports.comparison import compare as put_side_by_side
    from robustbench_bcos.reports.comparison_formats import FORMATS
    from robustbench_bcos.reports.results import read_results
    from robustbench_bcos.reports.trainings import compare_trainings

    write = None if style is None else FORMATS[style]
    _check_options(runs, by, where)
    found = [read_results(run) for run in runs]
    if across_seeds:
        measures = split("--measure", measure)
        comparison = compare_trainings(found, reference=reference, where=where, measures=measures)
    else:
        comparison = put_side_by_side(found, by=by, reference=reference, where=where)
    comparison = _sorted(comparison, sort)
    if write is None:
        _print(comparison)
    else:
        typer.echo(write(comparison), nl=False)
    _draw(found, where, figure, over_b)


def _check_options(runs: list[Path], by: str | None, where: str | None) -> None:
    """Refuse, before runs are read, what could be said of none."""
    from robustbench_bcos.reports.comparison import check_group
    from robustbench_bcos.reports.condition import check_condition

    if by is not None:
        check_group(by)
    # CSVs may have columns of their own.
    if where is not None and all(map(is_run, runs)):
        check_condition(where)


def _draw(found: "list[Results]", where: str | None, violins: Path | None, over_b: Path | None) -> None:
    if violins is None and over_b is None:
        return
    from robustbench_bcos.reports.style import write_figure
    from robustbench_bcos.reports.trade_off import trade_off_over_b
    from robustbench_bcos.reports.trainings import trainings
    from robustbench_bcos.reports.violins import training_violins

    rows = trainings(found, where)
    for file, draw in ((violins, training_violins), (over_b, trade_off_over_b)):
        if file is not None:
            files = write_figure(draw(rows), file.parent, file.name.removesuffix(".png").removesuffix(".pdf"))
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
    for note in (*comparison.legend, *comparison.notes):
        results.print(note, markup=False)
