"""Write what is generated from the options that the configuration declares: ``python -m tools.options``."""

from inspect import cleandoc
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.core.options import Parameter, parameters
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.localisation.config import LocaliseConfig

ROOT = Path(__file__).parents[1]
EXPLICIT = ("norm", "eps", "attack")
"""Written out in the signature of ``evaluate``."""


def python_module() -> str:
    """The types of ``evaluate``'s options."""
    head = '''
        """The keyword parameters of ``evaluate``, for type checkers and editors.

        Generated from ``RunConfig`` by ``python -m tools.options``: do not edit.
        """

        from collections.abc import Mapping, Sequence
        from pathlib import Path
        from typing import Any, Literal, TypedDict

        from robustbench_bcos.core.quantities import Quantity


        class EvaluateOptions(TypedDict, total=False):
            """Options of the command line that make sense for a model and images in memory."""

    '''
    lines = [cleandoc(head), ""]
    for parameter in parameters(RunConfig).values():
        if parameter.option.in_memory and parameter.name not in EXPLICIT:
            lines += [f"    {parameter.name}: {_spelled(parameter)}"]
    return "\n".join(lines) + "\n"


def _spelled(parameter: Parameter) -> str:
    """A type that is accepted, which is wider than that of the field."""
    kind: Any = parameter.type
    if kind is Quantity:
        one = "Quantity | str | float"
    elif get_origin(kind) is Literal:
        one = "Literal[" + ", ".join(f'"{name}"' for name in get_args(kind)) + "]"
    else:
        one = "Mapping[str, Any]" if parameter.mapping else kind.__name__
    if parameter.several:
        return f"{one} | Sequence[{one}]"
    return f"{one} | None" if NoneType in get_args(parameter.field.annotation) else one


def page() -> str:
    """The reference of all options."""
    head = """
        # Options

        Generated from the configuration by `python -m tools.options`: do not edit.

        Each option is a flag of `run`; other verbs share some of them. Without its dashes, and with `_` for `-`, it is
        a key of a suite file, where it belongs to the attack, and a keyword parameter of `rb.evaluate`, where the third
        column says so. Lists are written with commas, by repeating a flag, or as lists in Python and TOML.
    """
    lines = [cleandoc(head)]
    every = parameters(RunConfig)
    for panel in dict.fromkeys(parameter.option.panel for parameter in every.values()):
        lines += ["", f"## {panel}", "", "| flag | takes | `rb.evaluate` | what it does |", "|---|---|---|---|"]
        for parameter in every.values():
            if parameter.option.panel == panel:
                python = f"`{parameter.name}`" if parameter.option.in_memory else ""
                text = parameter.help(lambda name: f"`{every[name].flag}`" if name in every else f"`{name}`")
                lines += [f"| `{parameter.flag}` | {_taken(parameter)} | {python} | {text} |"]
    game = {
        name: one
        for name, one in parameters(LocaliseConfig).items()
        if name not in every or one.option != every[name].option
    }
    lines += ["", "## `localise` alone", "", "| flag | takes | `rb.localise` | what it does |", "|---|---|---|---|"]
    for parameter in game.values():
        text = parameter.help(lambda name: f"`{name}`")
        lines += [f"| `{parameter.flag}` | {_taken(parameter)} | `{parameter.name}` | {text} |"]
    return "\n".join(lines) + "\n"


def _taken(parameter: Parameter) -> str:
    """What is written behind the flag."""
    kind: Any = parameter.type
    names = {
        bool: "nothing",
        int: "a whole number",
        float: "a number",
        Quantity: "a number or fraction",
        Path: "a path",
    }
    one = "KEY=VALUE" if parameter.mapping else names.get(kind, "a name" if parameter.names else "text")
    return f"{one}, or several" if parameter.several or parameter.mapping else one


GENERATED = {
    ROOT / "robustbench_bcos" / "bench" / "options.py": python_module,
    ROOT / "docs" / "reference" / "options.md": page,
}

if __name__ == "__main__":
    for file, text in GENERATED.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text(), encoding="utf-8")
