"""``models``: the zoo. Reads cards alone; no torch, no weights."""

from typing import TYPE_CHECKING

import tomli_w
import typer
from rich.table import Table
from rich.text import Text

from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import results

if TYPE_CHECKING:
    from robustbench_bcos.model_zoo.cards import Card

app = typer.Typer(help="List the zoo, or show a card.", invoke_without_command=True, rich_markup_mode=None)

WIDE = 110
"""Columns of a terminal from which on family and architecture have room."""


@app.callback()
@takes("zoo")
def models(flags: Flags, context: typer.Context) -> None:
    """List the zoo, or show a card."""
    if context.invoked_subcommand is None:
        _print_zoo(flags)


@app.command("list")
@takes("zoo")
def list_models(flags: Flags) -> None:
    """Every model, with what it was trained on, its clean accuracy, and whether its weights are here."""
    _print_zoo(flags)


def _print_zoo(flags: Flags) -> None:
    from robustbench_bcos.model_zoo.cards import Zoo

    # In a narrow terminal a name is what one needs whole, to type it, and `models show` has the rest.
    wide = results.width >= WIDE
    table = Table(pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in (*(("family", "architecture") if wide else ()), "training", "dataset", "clean %", "weights"):
        table.add_column(column, overflow="fold")
    entries = [entry for _, entry in sorted(Zoo(flags.get("zoo", ())).entries.items())]
    for entry in entries:
        card = entry.card
        what = (card.family, card.architecture) if wide else ()
        state = "here" if entry.is_here else "to fetch"
        cells = (card.name, *what, str(card.training), card.dataset, _clean(card), state)
        table.add_row(*map(Text, cells))
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
@takes("zoo")
def show(flags: Flags, name: str) -> None:
    """The card of one model, as TOML."""
    from robustbench_bcos.model_zoo.cards import Zoo

    card = Zoo(flags.get("zoo", ()))[name].card
    typer.echo(tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)), nl=False)
