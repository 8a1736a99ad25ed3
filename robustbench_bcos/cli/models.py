"""``models``: the zoo. Reads cards alone; no torch, no weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w
import typer
from rich.table import Table

from robustbench_bcos.cli.output import results

if TYPE_CHECKING:
    from robustbench_bcos.model_zoo.cards import Card

app = typer.Typer(help="List the zoo, or show a card.", invoke_without_command=True)

Folders = Annotated[list[Path] | None, typer.Option("--zoo", help="Folder with further cards.")]

WIDE = 110
"""Columns of a terminal from which on family and architecture have room."""


@app.callback()
def models(context: typer.Context, zoo: Folders = None) -> None:
    """List the zoo, or show a card."""
    if context.invoked_subcommand is None:
        list_models(zoo)


@app.command("list")
def list_models(zoo: Folders = None) -> None:
    """Every model, with what it was trained on, its clean accuracy, and whether its weights are here."""
    from robustbench_bcos.model_zoo.cards import Zoo

    # In a narrow terminal a name is what one needs whole, to type it, and `models show` has the rest.
    wide = results.width >= WIDE
    table = Table(pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in (*(("family", "architecture") if wide else ()), "training", "dataset", "clean %", "weights"):
        table.add_column(column, overflow="fold")
    entries = [entry for _, entry in sorted(Zoo(zoo or ()).entries.items())]
    for entry in entries:
        card = entry.card
        what = (card.family, card.architecture) if wide else ()
        state = "here" if entry.is_here else "to fetch"
        table.add_row(card.name, *what, str(card.training), card.dataset, _clean(card), state)
    results.print(table)
    if not all(entry.is_here for entry in entries):
        results.print("`fetch NAME` gets weights; * as published.", markup=False)


def _clean(card: "Card") -> str:
    clean, published = card.clean_accuracy, card.published
    if clean is not None:
        return f"{100 * clean.correct / clean.total:.1f}"
    if published is not None and published.top1 is not None:
        return f"{published.top1:.1f}*"
    return ""


@app.command("show")
def show(name: str, zoo: Folders = None) -> None:
    """The card of one model, as TOML."""
    from robustbench_bcos.model_zoo.cards import Zoo

    card = Zoo(zoo or ())[name].card
    typer.echo(tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)), nl=False)
