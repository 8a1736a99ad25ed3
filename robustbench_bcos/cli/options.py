"""Options of the verbs that are fields of the configuration: their flags, their help and how they are read."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from robustbench_bcos.bench.config import RUN, RunConfig
from robustbench_bcos.cli.listed import LIST, pairs, split
from robustbench_bcos.core.options import Parameter, parameters
from robustbench_bcos.core.plugins import load_plugins

Flags = dict[str, Any]
"""What was given on the command line, by field of the configuration."""

PARAMETERS = parameters(RunConfig)

# Of verbs that carry out a run; they are no part of what it is.
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run; an unfinished one is continued.", rich_help_panel=RUN)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove the run that is in the folder, and begin anew.", rich_help_panel=RUN)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the path of the CSV alone.", rich_help_panel=RUN)]


def takes(
    *names: str, single: tuple[str, ...] = (), table: type[RunConfig] = RunConfig, **changes: Mapping[str, Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that gives a verb options of the configuration; its first argument is those that were given.

    Args:
        names: of fields; without any, all that are options.
        single: those of which this verb takes one value, where a run takes several.
        table: whose fields they are.
        changes: what is different about an option in this verb: ``dataset={"help": "..."}``.
    """
    every_option = parameters(table)
    taken = [every_option[name] for name in names or every_option]
    taken = [replace(one, option=replace(one.option, **changes.get(one.name, {}))) for one in taken]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:  # noqa: ANN401
            flags = {one.name: _read(one, given.pop(one.name), one.name in single) for one in taken}
            # First of all, because what files register may be named in every other option.
            load_plugins(flags.get("plugin") or ())
            verb({name: value for name, value in flags.items() if value is not None}, **given)

        _, *own = inspect.signature(verb).parameters.values()
        every = [_declared(one, one.name in single) for one in taken]
        every += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        # typer reads both.
        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in every}
        return command

    return decorate


WEIGHTS_FILES = (".bin", ".ckpt", ".h5", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".th")
"""How names of weights files end: what is called so and is not there was not meant as the name of a model."""


def model_or_weights(model: str, flags: Flags) -> Flags:
    """What the argument of a verb names: a weights file, or a model as ``run --model`` takes it."""
    file = Path(model)
    if "architecture" in flags or file.is_file() or file.suffix in WEIGHTS_FILES:
        return {"weights": file}
    return {"model": (model,)}


def _declared(parameter: Parameter, single: bool) -> inspect.Parameter:
    """A parameter as typer reads it from a signature."""
    kind: Any = parameter.type if parameter.type in (bool, int, Path) else str
    text = parameter.help(lambda name: PARAMETERS[name].flag if name in PARAMETERS else name)
    if parameter.mapping or (parameter.several and not single):
        kind = list[Path] if kind is Path else list[str]
        text += f" {LIST}" if parameter.separable else " Repeat it."
    option = typer.Option(parameter.flag, help=text, rich_help_panel=parameter.option.panel)
    default, annotation = (False, bool) if kind is bool else (None, kind | None)
    return inspect.Parameter(
        parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
    )


def _read(parameter: Parameter, given: Any, single: bool) -> Any:  # noqa: ANN401
    """The value of the field, or ``None`` where the option was not given."""
    if parameter.type is bool:
        return not parameter.field.default if given else None
    if given is None or given == []:
        return None
    if parameter.mapping:
        return pairs(parameter.flag, given)
    if parameter.separable and not single:
        return split(parameter.flag, given)
    return (given,) if single else given
