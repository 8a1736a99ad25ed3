"""Robustness of neural ODEs that is their solver's: found where it is planted, and not where it is not."""

import copy
from dataclasses import dataclass
from typing import final

import pytest
from torch import Tensor, nn

from robustbench_bcos.bench.evidence.trust import Outcome, Trust
from robustbench_bcos.dynamics.solver import AbstractSolver, Field
from robustbench_bcos.dynamics.solvers.rk4 import RungeKutta4
from robustbench_bcos.dynamics.solvers.torchode import Torchode
from robustbench_bcos.model_zoo.architectures.odenet import flows_of
from tests.bench.evidence.one_check import outcome
from tests.bench.evidence.planted import IMAGES, LABELS, zoo
from tests.bench.own_request import own_request

FEW = 12
QUICKEST = RungeKutta4(steps=1)


@final
@dataclass(frozen=True, kw_only=True)
class Hiding(AbstractSolver):
    """Right states, and a gradient that has nothing to do with them."""

    adaptive = True

    def advance(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        ends = QUICKEST.advance(field, states.detach(), start, end)
        turned = states.flip(1)
        return ends - turned + turned.detach()

    def tighter(self) -> "AbstractSolver":
        return self


def judged(solver: AbstractSolver, name: str = "digits-odenet") -> tuple[Outcome, Trust]:
    """What the check says of the network under a solver, attacked in a few steps at a radius that breaks some."""
    network: nn.Module = copy.deepcopy(zoo(name))
    for flow in flows_of(network):
        flow.solver = solver
    request = own_request(
        {"net": network}, IMAGES[:FEW], LABELS[:FEW], 10, norm=("l2",), eps=("0.5",), steps=(5,), evidence="quick"
    )
    return outcome("solver_dependent", request)


def test_a_solver_that_hides_gradients_is_suspect_for_that_reason() -> None:
    said, trust = judged(Hiding())
    assert said.status == "undermined"
    assert (trust.trust, trust.reasons) == ("suspect", "solver_dependent")
    assert trust.worst_correct <= FEW - said.against


def test_fixed_steps_are_not_suspect() -> None:
    assert judged(QUICKEST)[0].status == "held"


def test_an_honest_adaptive_solver_is_not_suspect() -> None:
    pytest.importorskip("torchode")
    assert judged(Torchode(rtol=1e-2, atol=1e-2, method="heun"))[0].status == "held"


def test_networks_that_solve_nothing_are_not_examined() -> None:
    assert judged(QUICKEST, "digits-natural")[0].examined == 0
