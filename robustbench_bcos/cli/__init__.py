"""``robustbench_bcos VERB``: one module per verb, each of which parses, delegates and prints."""

import sys

import typer

from robustbench_bcos.cli import check, compare, convert, curves, explain, fetch, models, report, run, suites, train
from robustbench_bcos.cli.output import errors
from robustbench_bcos.core.errors import Interrupted, RequestError

app = typer.Typer(
    name="robustbench_bcos",
    help="Robust accuracies of B-cos networks and their baselines that can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("report")(report.report)
app.command("explain")(explain.explain)
app.command("check")(check.check)
app.command("compare")(compare.compare)
app.command("train")(train.train)
app.command("curves")(curves.curves)
app.command("fetch")(fetch.fetch)
app.command("convert")(convert.convert)
app.add_typer(models.app, name="models")
app.add_typer(suites.app, name="suites")


def main() -> None:
    """Run the command line: 0 done, 2 the request cannot be carried out as asked, 130 interrupted."""
    try:
        app()
    except RequestError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except Interrupted as interruption:
        errors.print(str(interruption), markup=False, highlight=False, soft_wrap=True)
        sys.exit(130)
