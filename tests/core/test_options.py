"""What a field declares once is read from it: flag, help, default, names and whether it takes a list."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from robustbench_bcos.core.options import Option, parameters
from robustbench_bcos.core.tables import Table

KNOWN = ["oak"]


class Furniture(Table):
    legs: Annotated[int, Option(help="How many.", panel="Shape"), Field(ge=1)] = 4
    wood: Annotated[tuple[str, ...], Option(help="One of {names}.", panel="Make", names=lambda: KNOWN)] = ("oak",)
    finish: Annotated[Literal["oil", "wax"] | None, Option(help="{names}, on `wood`.", panel="Make")] = None
    plans: Annotated[tuple[Path, ...], Option(help="Files.", panel="Shape", default="none, see `legs`")] = ()
    painted: Annotated[bool, Option(help="No paint.", panel="Make", flag="--bare")] = True
    extra_parts: Annotated[dict[str, Any], Option(help="Parts.", panel="Make")] = Field(default_factory=dict)
    price: int = 0


FOUND = parameters(Furniture)


def test_fields_that_declare_nothing_are_no_options_and_panels_stay_together() -> None:
    assert list(FOUND) == ["legs", "plans", "wood", "finish", "painted", "extra_parts"]


@pytest.mark.parametrize(
    ("name", "flag", "kind", "several", "separable"),
    [
        ("legs", "--legs", int, False, False),
        ("wood", "--wood", str, True, True),
        ("finish", "--finish", Literal["oil", "wax"], False, False),
        ("plans", "--plans", Path, True, False),
        ("painted", "--bare", bool, False, False),
        ("extra_parts", "--extra-parts", dict[str, Any], False, False),
    ],
)
def test_a_type_says_what_an_option_takes(name: str, flag: str, kind: Any, several: bool, separable: bool) -> None:
    found = FOUND[name]
    assert (found.flag, found.type, found.several, found.separable) == (flag, kind, several, separable)
    assert found.mapping == (name == "extra_parts")


def test_help_has_the_names_known_by_now_the_default_and_other_options_as_they_are_spelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(name: str) -> str:
        return FOUND[name].help(lambda other: FOUND[other].flag)

    assert said("legs") == "How many. By default 4."
    assert said("finish") == "oil, wax, on --wood."
    assert said("plans") == "Files. By default none, see --legs."
    assert said("painted") == "No paint."
    assert said("wood") == "One of oak. By default oak."
    monkeypatch.setattr("tests.core.test_options.KNOWN", ["oak", "ash"])
    assert said("wood") == "One of oak, ash. By default oak."
