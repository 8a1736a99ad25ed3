"""Options of the verbs are those of the configuration: all have a flag and its help, and are read into its fields."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.cli import VERBS, app
from robustbench_bcos.cli.options import PARAMETERS, Flags, takes
from robustbench_bcos.cli.verb import Verb
from robustbench_bcos.core.version import VERSION
from tests.cli.command_line import call, refusal, succeed


def read(arguments: list[str], *names: str, **how: Any) -> Flags:
    """What a verb that takes these options is given."""
    found: list[Flags] = []

    @takes(*names, **how)
    def verb(flags: Flags, own: int = 3) -> None:
        found.append(flags)

    alone = typer.Typer()
    alone.command()(verb)
    get_command(alone).main(arguments, standalone_mode=False)
    return found[0]


def test_every_option_has_its_flag_and_help_in_run() -> None:
    command: Any = get_command(app)
    shown = {one.name: one for one in command.get_command(None, "run").params}
    for name, one in PARAMETERS.items():
        assert shown[name].opts == [one.flag]
        assert shown[name].help.startswith(one.help(lambda other: PARAMETERS[other].flag))


def test_options_are_shown_under_their_headings() -> None:
    shown = succeed("run", "--help")
    for one in PARAMETERS.values():
        assert re.search(rf"^{one.option.panel}:\n(  .*\n)*  {one.flag}\b", shown, flags=re.MULTILINE), one.flag


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_is_for_and_how_it_is_called(verb: str) -> None:
    assert re.search(rf"^  {verb} +\w", succeed("--help"), flags=re.MULTILINE)
    shown = succeed(verb, "--help")
    assert f" {verb} " in shown.partition("\n")[0]
    command: Any = get_command(app).get_command(None, verb)  # type: ignore[attr-defined]
    examples = getattr(command, "examples", ())
    assert bool(examples) == isinstance(command, Verb)
    for example in examples:
        assert f"\n  python -m robustbench_bcos {example}\n" in shown
        called, *arguments = shlex.split(example.partition(" > ")[0])
        assert called == verb
        # Parsed and not carried out: an option that there is not, or a value of another type, is an error.
        command.make_context(verb, arguments)


def test_the_version_is_printed_alone() -> None:
    assert call("--version") == (0, f"robustbench_bcos {VERSION}\n", "")


def test_a_verb_that_there_is_not_is_helped() -> None:
    assert refusal("rnu").startswith("unknown verb 'rnu': did you mean 'run'?")


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ([], {}),
        (["--norm", "l2, linf,", "--norm", "l1"], {"norm": ("l2", "linf", "l1")}),
        (["--zoo", "a,b", "--zoo", "c"], {"zoo": [Path("a,b"), Path("c")]}),
        (["--option", "a=1.5", "--option", "b=x=y"], {"option": {"a": 1.5, "b": "x=y"}}),
        (["--seed", "0", "--limit", "5"], {"seed": 0, "limit": 5}),
        (["--no-figures", "--compile"], {"figures": False, "compile": True}),
        (["--images", "3,14"], {"images": ("3", "14")}),
        (["--device", ""], {"device": ""}),
    ],
)
def test_flags_are_what_was_given_and_nothing_else(arguments: list[str], flags: Flags) -> None:
    assert read(arguments) == flags


def test_what_was_read_makes_the_configuration() -> None:
    config = make_config(read(["--eps", "8/255,0.5", "--step-size", "1/255", "--steps", "5", "--no-figures"]))
    assert [eps.text for eps in config.eps] == ["8/255", "0.5"]
    assert (str(config.step_size), config.steps, config.figures) == ("1/255", (5,), False)


def test_a_verb_may_take_some_options_one_value_of_each_and_say_it_otherwise() -> None:
    how = {"single": ("norm",), "norm": {"flag": "--ball"}}
    assert read(["--ball", "l2,linf", "--seed", "4"], "norm", "seed", **how) == {"norm": ("l2,linf",), "seed": 4}
    assert PARAMETERS["norm"].flag == "--norm"
