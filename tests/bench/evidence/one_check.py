"""One check alone, of networks made by hand: what it finds, and what follows from that."""

from robustbench_bcos.bench.evidence.check import AbstractCellCheck, AbstractModelCheck, checks_of
from robustbench_bcos.bench.evidence.trust import Judgement, Outcome, Trust
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.bench.store import Store
from tests.bench.by_hand import evidence_row
from tests.bench.tiny_zoo import carry_out


def carry_out_alone(name: str, request: Request, store: Store) -> None:
    """A run whose other checks find nothing, because they count as carried out."""
    evidence = request.config.evidence
    for subject in (source.name for source in request.sources):
        known = [check.name for check in checks_of(evidence, AbstractModelCheck)]
        store.add(*(evidence_row(subject, check) for check in known if check != name))
    for cell in request.cells:
        known = [check.name for check in checks_of(evidence, AbstractCellCheck)]
        store.add(*(evidence_row(cell.key, check) for check in known if check != name))
    carry_out(request, store)


def results(name: str, request: Request, cell: int = 0) -> list[ResultRow]:
    """What the check found of a cell."""
    with Store() as store:
        carry_out_alone(name, request, store)
        return store.results(request.cells[cell].key)


def outcome(name: str, request: Request, cell: int = 0) -> tuple[Outcome, Trust]:
    """What the check says of a cell, and the judgement on it."""
    with Store() as store:
        carry_out_alone(name, request, store)
        judged = Judgement(store, request.identity).of(request.cells[cell])
        (said,) = (found for found in judged.outcomes if found.check == name)
        return said, judged
