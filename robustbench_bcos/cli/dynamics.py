"""``dynamics``: forecasters of dynamical systems, trained, attacked and explained."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from robustbench_bcos.cli.listed import LIST, split
from robustbench_bcos.cli.output import errors, results
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_bcos.regression.recipe import Suite, Threats
    from robustbench_bcos.regression.study import Tables, Training

app = typer.Typer(help="Train, attack and explain forecasters of dynamical systems.", rich_markup_mode=None)


@app.command("systems")
def list_systems() -> None:
    """The systems, with their states and parameters, and how their data are made."""
    from robustbench_bcos.dynamics import SYSTEMS

    table = Table("system", "states", "parameters", "until", "solver", pad_edge=False)
    for name in SYSTEMS:
        system = SYSTEMS[name]
        values = ", ".join(f"{key} {value:g}" for key, value in system.parameters.items())
        settings = f"{system.settings.method} rtol {system.settings.rtol:g} atol {system.settings.atol:g}"
        row = (name, ", ".join(system.states), values, f"{system.end:g}", settings)
        table.add_row(*(Text(part) for part in row))
    results.print(table)


@app.command("train")
def train(
    suite: Annotated[str, typer.Argument(help="Name or TOML file of a suite: systems, seeds and variations.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, cards and data.")] = Path("forecasters"),
    system: Annotated[list[str] | None, typer.Option(help=f"Of the suite's systems, these. {LIST}")] = None,
    variation: Annotated[list[str] | None, typer.Option(help=f"Of its variations, these. {LIST}")] = None,
    seeds: Annotated[str | None, typer.Option(help="In place of the suite's: 0..4 or 0,3,7.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, each in a process with one thread.")] = 1,
) -> None:
    """Make the forecasters of a suite; those that are there are not trained again."""
    asked = _suite(suite, split("--system", system), split("--variation", variation), seeds)
    from robustbench_bcos.regression.study import trainings_of

    _train(trainings_of(asked), out, jobs)


@app.command("study")
def study(
    suite: Annotated[str, typer.Argument(help="Name or TOML file of a suite: systems, seeds, variations, threats.")],
    out: Annotated[Path, typer.Option(help="Folder for tables and figures; forecasters are in a folder in it.")] = Path(
        "dynamics"
    ),
    system: Annotated[list[str] | None, typer.Option(help=f"Of the suite's systems, these. {LIST}")] = None,
    variation: Annotated[list[str] | None, typer.Option(help=f"Of its variations, these. {LIST}")] = None,
    seeds: Annotated[str | None, typer.Option(help="In place of the suite's: 0..4 or 0,3,7.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Forecasters at a time, each in a process with one thread.")] = 1,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw them.")] = True,
) -> None:
    """Everything of a suite: train its forecasters, attack and explain them under its threats.

    The same command continues what was interrupted: forecasters that are there are not trained again, and
    those that were attacked under these threats not attacked.
    """
    asked = _suite(suite, split("--system", system), split("--variation", variation), seeds)
    from robustbench_bcos.regression.study import run_forecasters, trainings_of

    trainings, folder = trainings_of(asked), out / "forecasters"
    _train(trainings, folder, jobs)
    cards = [folder / f"{training.model}.toml" for training in trainings]
    _report(run_forecasters(cards, asked.threats, out=out, jobs=jobs, when_done=_counted(len(cards))), out, figures)


@app.command("run")
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `dynamics train` has written to.")],
    suite: Annotated[str | None, typer.Option(help="A suite, whose threats hold where none are given.")] = None,
    norm: Annotated[list[str] | None, typer.Option(help=f"l2, linf. {LIST}")] = None,
    eps: Annotated[list[str] | None, typer.Option(help=f"In units of the range of each input. {LIST}")] = None,
    targets: Annotated[list[str] | None, typer.Option(help=f"initial, parameters or both. {LIST}")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Error from which on an attack succeeds.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of PGD.")] = None,
    evidence: Annotated[
        str | None,
        typer.Option(help="off, quick: try what could refute the numbers, more searches and noise."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="NPZ file of your own: times, states, parameters.")] = None,
    system: Annotated[str | None, typer.Option(help="What the file holds; needed with --data.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path("dynamics"),
    jobs: Annotated[int, typer.Option(min=1, help="Forecasters at a time, each in a process with one thread.")] = 1,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw them.")] = True,
) -> None:
    """Attack and explain every forecaster of a folder: results, trajectories, contributions and a summary as CSV.

    An attack succeeds where the root mean square error of a prediction, in units of each state's range, is above the
    tolerance. `check` holds results.csv against an earlier one.
    """
    given: dict[str, Any] = {
        "norms": split("--norm", norm) or None,
        "eps": split("--eps", eps) or None,
        "targets": split("--targets", targets) or None,
        "tolerance": tolerance,
        "steps": steps,
        "evidence": evidence,
    }
    threats = _threats(suite, {key: value for key, value in given.items() if value is not None})
    if (data is None) != (system is None):
        raise RequestError("--data and --system belong together: the file, and the system whose trajectories it holds")
    from robustbench_bcos.regression.cards import forecasters_in
    from robustbench_bcos.regression.data import read_trajectories

    cards = forecasters_in(folder)
    read = None if data is None or system is None else read_trajectories(data, system)
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.regression.study import run_forecasters

    _report(
        run_forecasters(cards, threats, out=out, data=read, jobs=jobs, when_done=_counted(len(cards))), out, figures
    )


@app.command("explain")
def explain(
    card: Annotated[Path, typer.Argument(metavar="CARD", help="TOML file of a forecaster.")],
    trajectory: Annotated[int, typer.Option(min=0, help="Of its test trajectories.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the table and the figure.")] = Path("explained"),
) -> None:
    """What each initial state, each parameter and the drive contribute to each predicted state, over time."""
    from robustbench_bcos.core.disk import made, write_text
    from robustbench_bcos.core.tables import read_table
    from robustbench_bcos.regression.cards import ForecasterCard

    read_table(ForecasterCard, card)
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.regression.files import read_forecaster
    from robustbench_bcos.regression.study import explained
    from robustbench_bcos.regression.study import split as parts
    from robustbench_bcos.reports.dynamics import write_contributions

    trained, read = read_forecaster(card)
    _, test = parts(read.recipe, read.fold)
    if trajectory >= len(test):
        raise RequestError(f"--trajectory {trajectory} is not among the {len(test)} of the test: give a smaller one")
    table = explained(trained, test.select([trajectory]))
    write_text(made(out) / "contributions.csv", table.to_csv(index=False))
    write_contributions(table, out)
    largest = float((table["missing"].abs() / table["prediction"].abs().max()).max())
    what = "B-cos: contributions sum to the prediction" if trained.recipe.family == "bcos" else "conventional"
    results.print(f"{trained.recipe.name}, {what}; missing from them at most {largest:.2g}", markup=False)
    results.print(f"Written to {out}: contributions.csv and a figure", markup=False, soft_wrap=True)


def _train(trainings: "list[Training]", out: Path, jobs: int) -> None:
    from robustbench_bcos.regression.study import train_suite

    for number, name in enumerate(train_suite(trainings, out, jobs), start=1):
        errors.print(f"{name} ({number})", markup=False, highlight=False)
    results.print(f"{len(trainings)} forecasters are in {out}", markup=False, soft_wrap=True)


def _counted(count: int) -> Callable[[str], None]:
    """Prints the name of each forecaster that is done, and how many are."""
    done = itertools.count(1)
    return lambda name: errors.print(f"{next(done)} of {count}: {name}", markup=False, highlight=False)


def _report(tables: "Tables", out: Path, figures: bool) -> None:
    """Print the summary, and draw what was asked for."""
    _show(tables.summary)
    for column, what in {"outside": "predictions leave", "inputs_outside": "inputs lie outside"}.items():
        most = int(tables.results[column].max())
        if most:
            results.print(
                f"{what} the range of the training data, where nothing was learned: up to {most} of a model (column "
                f"{column})",
                soft_wrap=True,
            )
    if figures:
        from robustbench_bcos.reports.dynamics import write_figures

        write_figures(tables.results, tables.trajectories, tables.contributions, out)
    results.print(f"Tables{' and figures' * figures} are in {out}", markup=False, soft_wrap=True)


def _suite(name: str, systems: tuple[str, ...], variations: tuple[str, ...], seeds: str | None) -> "Suite":
    from robustbench_bcos.cli.train import parse_seeds
    from robustbench_bcos.core.registry import unknown
    from robustbench_bcos.dynamics import SYSTEMS
    from robustbench_bcos.regression.recipe import SUITES

    suite = SUITES.load(name)
    for kind, asked, known in (("system", systems, suite.systems), ("variation", variations, suite.variations)):
        for one in asked:
            if one not in known:
                raise unknown(f"{kind} of the suite", one, known)
    changes: dict[str, Any] = {} if seeds is None else {"seeds": parse_seeds(seeds)}
    if systems:
        changes["systems"] = systems
    if variations:
        changes["variations"] = {one: suite.variations[one] for one in variations}
    chosen = suite.model_copy(update=changes)
    for system in chosen.systems:
        if system not in SYSTEMS:
            raise unknown("system", system, SYSTEMS)
    return chosen


def _threats(suite: str | None, given: dict[str, Any]) -> "Threats":
    from robustbench_bcos.attacks import norm_name
    from robustbench_bcos.core.tables import parse_table
    from robustbench_bcos.regression.recipe import SUITES, Threats

    base = Threats() if suite is None else SUITES.load(suite).threats
    threats = parse_table(Threats, base.model_dump() | given, "the options of dynamics run")
    return threats.model_copy(update={"norms": tuple(norm_name(norm) for norm in threats.norms)})


def _show(summary: "pd.DataFrame") -> None:
    from robustbench_bcos.reports.marks import legend, marked

    headings = ("system", "variation", "over", "attacked", "threat", "relative error", "R²", "robust")
    table = Table(*headings, pad_edge=False)

    def spread(row: Any, measure: str, form: str) -> str:  # noqa: ANN401 (a row of pandas)
        mean, deviation = getattr(row, measure), getattr(row, f"{measure}_deviation")
        return f"{mean:{form}}" if row.trainings == 1 else f"{mean:{form}} ± {deviation:{form}}"

    for row in summary.itertuples():
        cells = (
            str(row.dataset),
            str(row.variation),
            f"{row.trainings} {row.repeated}",
            str(row.space),
            f"{row.norm} {row.eps}",
            *(spread(row, *how) for how in (("relative_error", ".3f"), ("r2", ".2f"))),
            marked(spread(row, "robust_accuracy_worst", ".1%"), str(row.trust)),
        )
        table.add_row(*(Text(cell) for cell in cells))
    results.print(table)
    for line in legend(summary["trust"]):
        results.print(line, markup=False)
