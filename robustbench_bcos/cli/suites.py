"""``suites``: the named grids that ``run --suite`` takes."""

import typer
from rich.table import Table

from robustbench_bcos.bench.config import SUITES
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.text import counted

app = typer.Typer(help="List the named grids.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def suites() -> None:
    """Every packaged suite and what it asks for."""
    table = Table("suite", "threats", "steps", "trains", "what for")
    for name in SUITES.names():
        suite = SUITES.load(name)
        steps = ", ".join(map(str, suite.steps))
        trained = "" if suite.trainings is None else counted(len(suite.trainings.models), "model")
        threats = ", ".join(f"{norm}:{eps}" for norm, eps in suite.threats)
        table.add_row(name, threats, steps, trained, suite.description)
    results.print(table)
