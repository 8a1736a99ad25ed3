"""``models``: the zoo. Reads cards alone; no torch, no weights."""

from pathlib import Path
from typing import Annotated

import tomli_w
import typer
from rich.table import Table

from robustbench_bcos.cli.output import results

app = typer.Typer(help="List the zoo, or show a card.", invoke_without_command=True)

Folders = Annotated[list[Path] | None, typer.Option("--zoo", help="Folder with further cards.")]


@app.callback()
def models(context: typer.Context, zoo: Folders = None) -> None:
    """List the zoo, or show a card."""
    if context.invoked_subcommand is None:
        list_models(zoo)


@app.command("list")
def list_models(zoo: Folders = None) -> None:
    """Every model, with what it was trained on and its clean accuracy."""
    from robustbench_bcos.model_zoo.cards import Zoo

    table = Table(pad_edge=False)
    # In a narrow terminal a name is what one needs whole, to type it.
    table.add_column("model", no_wrap=True)
    for column in ("family", "architecture", "training", "dataset", "clean %"):
        table.add_column(column, overflow="fold")
    for name, (card, _) in sorted(Zoo(zoo or ()).entries.items()):
        clean = card.clean_accuracy
        percent = "" if clean is None else f"{100 * clean.correct / clean.total:.1f}"
        table.add_row(name, card.family, card.architecture, str(card.training), card.dataset, percent)
    results.print(table)


@app.command("show")
def show(name: str, zoo: Folders = None) -> None:
    """The card of one model, as TOML."""
    from robustbench_bcos.model_zoo.cards import Zoo

    card = Zoo(zoo or ())[name].card
    typer.echo(tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)), nl=False)
