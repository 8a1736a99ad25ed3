"""What every check promises: a question, a rule, a section where its link leads, and draws that are its own."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import (
    PAGE,
    RULES,
    AbstractCellCheck,
    AbstractCheck,
    AbstractModelCheck,
    AbstractSearchCheck,
    AbstractVerdictsCheck,
    checks_of,
)
from robustbench_bcos.bench.store import Store
from tests.bench.evidence.planted import IMAGES, LABELS, zoo
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import carry_out

PAGE_TEXT = (Path(__file__).parents[3] / PAGE).read_text(encoding="utf-8")
SCOPES = (AbstractVerdictsCheck, AbstractModelCheck, AbstractCellCheck)

every_check = pytest.mark.parametrize("name", CHECKS.packaged)


@every_check
def test_a_check_has_a_question_a_rule_and_one_scope(name: str) -> None:
    check = CHECKS[name]
    assert check.name == name
    assert re.fullmatch(r"\S.*\S", check.asks)
    assert not check.asks.endswith(".")
    assert check.rule in RULES
    assert sum(isinstance(check, scope) for scope in SCOPES) == 1


@every_check
def test_the_module_of_a_check_has_its_name(name: str) -> None:
    assert type(CHECKS[name]).__module__ == f"robustbench_bcos.bench.evidence.checks.{name}"


def test_every_check_is_explained_where_its_link_leads_and_nothing_else_is() -> None:
    explained = re.findall(r"^### (\w+)$", PAGE_TEXT, re.MULTILINE)
    assert sorted(explained) == sorted(CHECKS.packaged)
    assert {CHECKS[name].link for name in CHECKS.packaged} == {f"{PAGE}#{heading}" for heading in explained}


@every_check
def test_a_check_that_only_full_evidence_has_says_so(name: str) -> None:
    check = CHECKS[name]
    assert check in checks_of("full", AbstractCheck)
    assert (check in checks_of("quick", AbstractCheck)) is not check.full_only
    assert PAGE_TEXT.partition(f"### {name}\n\n")[2].startswith("*Full.*") is check.full_only


def test_without_evidence_there_are_checks_that_cost_nothing_alone() -> None:
    assert [check.name for check in checks_of("off", AbstractVerdictsCheck)] == [
        "certified",
        "class_order",
        "guessing",
    ]
    assert checks_of("off", AbstractCheck) == checks_of("off", AbstractVerdictsCheck)


@pytest.mark.parametrize("evidence", ["quick", "full"])
def test_searches_along_gradients_come_after_those_without_and_cheap_checks_before_dear_ones(evidence: str) -> None:
    order = [(RULES.index(check.rule), check.budget) for check in checks_of(evidence, AbstractCellCheck)]
    assert all(before <= after for before, after in pairwise(order))
    assert RULES.index("gradients") < RULES.index("search")
    searches = [check.name for check in checks_of(evidence, AbstractSearchCheck)]
    assert searches == ["noise", "black_box", "more_steps", "other_losses", "unbounded_attack"]


@pytest.mark.usefixtures("registries")
def test_another_check_changes_no_draw_of_those_that_are_there() -> None:
    """Wherever its name would stand among theirs."""

    def found() -> dict[str, list[Any]]:
        flags: dict[str, Any] = {"eps": ("2",), "steps": (1,), "evidence": "quick", "attack": ("noise",)}
        request = own_request({"net": zoo()}, IMAGES[:24], LABELS[:24], 10, **flags)
        (cell,) = request.cells
        with Store() as store:
            carry_out(request, store)
            rows = store.results(cell.key)
        return {name: [row for row in rows if row.check == name] for name in ("noise", "black_box", "other_losses")}

    before = found()
    for name in ("aaa", "nois", "zzz"):

        @CHECKS.registered(name)
        class Another(AbstractSearchCheck):
            asks = "broken by noise again"
            rule = "report"

            def attacks(self, attack: Any, *, full: bool) -> Any:
                return CHECKS["noise"].attacks(attack, full=full)  # type: ignore[attr-defined]

    assert found() == before
    # Some draws of noise break something and others do not, so that other draws would be seen.
    assert {row.broken for row in before["noise"]} == {True, False}
