"""``robustbench_bcos VERB``: one module per verb, each of which parses, delegates and prints."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from robustbench_bcos.cli.output import errors
from robustbench_bcos.core.errors import Interrupted, RequestError
from robustbench_bcos.core.registry import unknown

VERBS = (*("run", "report", "explain", "check", "compare", "train", "curves", "fetch", "convert", "models", "suites"),)


class _Verbs(TyperGroup):
    """Imports the module of the verb that is called, and those of all verbs where they are listed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 (typer brings a click of its own, or another)
        return list(VERBS)

    def get_command(self, ctx: Any, name: str) -> Any:  # noqa: ANN401
        if name not in VERBS:
            raise unknown("verb", name, VERBS)
        module = import_module(f"{__name__}.{name}")
        if hasattr(module, "app"):
            command: Any = get_group(module.app)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command(epilog=getattr(module, "EXAMPLES", None))(getattr(module, name))
            command = get_command(alone)
        command.name = name
        return command


app = typer.Typer(
    name="robustbench_bcos",
    cls=_Verbs,
    help="Robust accuracies of B-cos networks and their baselines that can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _every_verb() -> None:
    """Nothing is common to all verbs."""


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
