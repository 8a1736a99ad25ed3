"""One check alone, of networks made by hand: what it finds, and what follows from that."""

import pytest
from robustbench_bcos.bench.plan import Plan

from robustbench_bcos.bench.evidence import examination
from robustbench_bcos.bench.evidence.checks import CHECKS, Check, checks_of
from robustbench_bcos.bench.evidence.trust import Judgement, Outcome, Trust
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.bench.store import Store
from tests.bench.by_hand import evidence_row
from tests.bench.tiny_zoo import carry_out


def carry_out_alone(name: str, plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose other checks find nothing, because they are not carried out."""

    def alone(evidence: str, scope: str) -> list[Check]:
        return [CHECKS[name]] if CHECKS[name].scope == scope else []

    with monkeypatch.context() as changed:
        changed.setattr(examination, "checks_of", alone)
        carry_out(plan, store)
    subjects = [(cell.model, "model") for cell in plan.cells] + [(cell.key, "cell") for cell in plan.cells]
    for subject, scope in subjects:
        for check in checks_of(plan.config.evidence, scope):  # type: ignore[arg-type]
            if check.name not in store.evidence(subject):
                store.add(evidence_row(subject, check.name))


def findings(name: str, plan: Plan, monkeypatch: pytest.MonkeyPatch, cell: int = 0) -> list[ResultRow]:
    """What the check found of a cell."""
    with Store() as store:
        carry_out_alone(name, plan, store, monkeypatch)
        return store.select(ResultRow, subject=plan.cells[cell].key)


def outcome(name: str, plan: Plan, monkeypatch: pytest.MonkeyPatch, cell: int = 0) -> tuple[Outcome, Trust]:
    """What the check says of a cell, and the judgement on it."""
    with Store() as store:
        carry_out_alone(name, plan, store, monkeypatch)
        judged = Judgement(store, plan.identity).of(plan.cells[cell])
        (said,) = (found for found in judged.outcomes if found.check == name)
        return said, judged
