"""``check``: the gate that fails CI."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.run_files import check_results, is_run
from robustbench_bcos.cli.listed import LIST, split
from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from robustbench_bcos.reports.gate import GateReport

REGRESSED = 1


EXAMPLES = (
    "check robustness --baseline tests/baseline.csv --update",
    "check robustness --baseline tests/baseline.csv --junit gate.xml",
    "check robustness --baseline tests/baseline.csv --tolerance 2flips",
)


@takes("plugin")
def check(
    flags: Flags,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `run` has written, or its results.csv.")],
    baseline: Annotated[Path, typer.Option(help="CSV that --update has written, results.csv, or a run folder.")],
    tolerance: Annotated[
        list[str] | None,
        typer.Option(help=f"What may be lost: 2flips, 0.5points (the default), 'digits-*=1points'. {LIST}"),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns compared: robust_accuracy_worst (the default), clean_accuracy, explanation_.... " + LIST
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Fail only where an exact test on the same images does, at this level over all rows."),
    ] = None,
    both_ways: Annotated[
        bool, typer.Option("--both-ways", help="Fail on improvements, too: an attack may have broken.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Make this run the baseline, and compare nothing.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Hold a run against a baseline, row by row: exit 0 if all held, 1 if not, 2 if they cannot be compared.

    In GitHub Actions, what failed is annotated and the step summary has the table.
    """
    if alpha is not None and not 0 < alpha < 1:
        raise RequestError(f"--alpha {alpha} must be between 0 and 1: 0.05, say")
    # Not above: --help needs none of it.
    from robustbench_bcos.bench.folder import read_description

    for path in (run,) if update else (run, baseline):
        check_results(path)
        if is_run(path):
            read_description(path)
    from robustbench_bcos.core.disk import write_text
    from robustbench_bcos.reports.baseline import write_baseline
    from robustbench_bcos.reports.gate import Tolerance, check_gated
    from robustbench_bcos.reports.gate import check as hold
    from robustbench_bcos.reports.gate_formats import as_json as json_of
    from robustbench_bcos.reports.gate_formats import as_junit
    from robustbench_bcos.reports.marks import mark_notes, trust_of
    from robustbench_bcos.reports.results import read_results

    tolerances = [Tolerance.parse(text) for text in split("--tolerance", tolerance)]
    columns = split("--gate", gate) or ("robust_accuracy_worst",)
    check_gated(columns)
    # First, because a CSV is read without torch.
    before = None if update else read_results(baseline)
    found = read_results(run)
    if before is None:
        files = write_baseline(found, baseline)
        results.print(f"Written: {', '.join(map(str, files))}", soft_wrap=True, markup=False)
        rows = found.records
        why = mark_notes(zip(rows["model"], rows.to_dict("records"), strict=True))
        for note in (f"Trust: {trust_of(rows['trust'])}.", *why):
            results.print(note, markup=False)
        return
    report = hold(found, before, tolerances=tolerances, columns=columns, alpha=alpha, both_ways=both_ways)
    if junit is not None:
        write_text(junit, as_junit(report))
    if as_json:
        typer.echo(json_of(report))
    else:
        _print(report)
    _tell_github(report)
    if not report.passed:
        raise typer.Exit(REGRESSED)


def _print(report: "GateReport") -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from robustbench_bcos.reports.gate_formats import after, before, difference

    tested = any(row.p is not None for row in report.rows)
    headings = ("", "row", "before", "now", "change", *(["p"] if tested else []))
    table = Table(*(Column(heading, overflow="fold") for heading in headings), pad_edge=False)
    styles = {"held": "", "improved": "green"}
    for row in report.rows:
        name = row.name if row.column == "robust_accuracy_worst" else f"{row.name} {row.column}"
        cells = [row.status, name, before(row), after(row), difference(row)]
        cells += ["" if row.p is None else f"{row.p:.2g}"] if tested else []
        table.add_row(*(Text(cell) for cell in cells), style=styles.get(row.status, "bold red"))
    results.print(table)
    for note in report.notes:
        results.print(note, markup=False)
    results.print(report.summary, markup=False)


def _tell_github(report: "GateReport") -> None:
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from robustbench_bcos.reports.gate_formats import annotations, as_markdown

    for line in annotations(report):
        typer.echo(line, err=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        from robustbench_bcos.core.disk import disk_explained

        with disk_explained(Path(summary)), Path(summary).open("a", encoding="utf-8") as file:
            file.write(as_markdown(report))
