"""Checks: each is explained where its link leads, and quick evidence leaves out no more than it says."""

import re
from pathlib import Path

import pytest

from robustbench_bcos.bench.evidence.checks import CHECKS, PAGE, checks_of

ROOT = Path(__file__).parents[3]


def test_every_check_is_explained_where_its_link_leads_and_nothing_else_is() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    explained = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert len(explained) == len(CHECKS)
    assert {CHECKS[name].link for name in CHECKS} == {f"{PAGE}#{heading}" for heading in explained}


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_that_only_full_evidence_has_says_so(name: str) -> None:
    check = CHECKS[name]
    assert check in checks_of("full", check.scope)
    assert (check in checks_of("quick", check.scope)) is not check.full_only
    assert checks_of("off", check.scope) == []
    paragraph = (ROOT / PAGE).read_text(encoding="utf-8").partition(f"### {name}\n\n")[2]
    assert paragraph.startswith("*Full.*") is check.full_only
