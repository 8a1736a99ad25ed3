"""How the help of a verb looks: plain text, options under their headings, then commands to copy.

Plain, because to draw boxes takes longer than everything else that ``--help`` does.
"""

from typing import Any

from typer.core import TyperCommand

PROGRAM = "python -m robustbench_bcos"

ARGUMENTS, OPTIONS = "Arguments", "Options"

WIDEST = 100
"""Columns that help fills at most."""


class Verb(TyperCommand):
    """A verb of the command line.

    Attributes:
        examples: command lines without the program's name.
    """

    examples: tuple[str, ...] = ()

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 (typer's own)
        settings["context_settings"] = {"max_content_width": WIDEST, **(settings.get("context_settings") or {})}
        super().__init__(**settings)

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 (click is typer's own, or is not)
        """Options under the heading that each names; those without one after the arguments."""
        headings: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            plain = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
            if record is not None:
                headings.setdefault(getattr(parameter, "rich_help_panel", None) or plain, []).append(record)
        for heading, records in headings.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """The examples."""
        write_examples(formatter, self.examples)


def write_examples(formatter: Any, examples: tuple[str, ...]) -> None:  # noqa: ANN401
    """A line for each, however long: a line that is broken cannot be copied."""
    if examples:
        with formatter.section("Examples"):
            formatter.write("".join(f"  {PROGRAM} {example}\n" for example in examples))
