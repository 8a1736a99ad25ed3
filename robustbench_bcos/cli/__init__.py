"""``robustbench_bcos VERB``: one module per verb, each of which parses, delegates and prints."""

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from robustbench_bcos.cli.output import errors
from robustbench_bcos.cli.verb import Verb, write_examples
from robustbench_bcos.core.errors import Broken, Interrupted, RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.version import VERSION

VERBS = (
    *(
        "run",
        "report",
        "explain",
        "localise",
        "check",
        "compare",
        "bcosify",
        "train",
        "dynamics",
        "curves",
        "fetch",
        "convert",
        "export",
        "models",
        "suites",
    ),
)

EXAMPLES = (
    "run --limit 100",
    "run --model my_package.nets:make --dataset folder:DIR --norm linf --eps 4/255",
    "run --help",
)


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
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(cls=Verb)(getattr(module, name))
            command = get_command(alone)
            command.examples = module.EXAMPLES
        command.name = name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Every verb with the first sentence about it, whole."""
        # In a loop, because to make a command imports its module.
        lines = [(name, (self.get_command(ctx, name).help or "").partition("\n")[0]) for name in VERBS]
        with formatter.section("Verbs"):
            formatter.write_dl(lines)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        write_examples(formatter, EXAMPLES)


app = typer.Typer(
    name="robustbench_bcos",
    cls=_Verbs,
    help="Robust accuracies of B-cos networks and their baselines that can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"robustbench_bcos {VERSION}")
        raise typer.Exit
    return asked


@app.callback()
def _every_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Nothing else is common to all verbs."""


def main() -> None:
    """Carry out the command line of this process; errors that a user can correct end it with a sentence."""
    try:
        app()
    except (RequestError, Broken) as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1 if isinstance(error, Broken) else 2)
    except Interrupted as interruption:
        errors.print(str(interruption), markup=False, highlight=False, soft_wrap=True)
        sys.exit(130)
