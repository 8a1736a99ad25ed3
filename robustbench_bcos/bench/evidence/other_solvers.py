"""Attacks through other solvers of a model's differential equation."""

import copy
from dataclasses import replace

import torch
from torch import nn

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.judge import judge
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.dynamics.solver import AbstractSolver, FixedStepSolver
from robustbench_bcos.dynamics.solvers.rk4 import RungeKutta4
from robustbench_bcos.model_zoo.architectures.odenet import flows_of
from robustbench_bcos.model_zoo.bcos.folding import fold

STEPS = 16
"""Fixed steps in place of those that an adaptive solver chooses."""


def search_through_others(attack: AbstractAttack, target: AttackTarget, *, subject: str) -> Found:
    """What an attack through other solvers breaks, as the model is or solved with a smaller error."""
    tight = _solved(target.classifier, tighter=True)
    against = torch.zeros(len(target.images), dtype=torch.bool, device=target.images.device)
    broken, passes = against.clone(), torch.zeros_like(against, dtype=torch.long)
    for surrogate in dict.fromkeys((_solved(target.classifier, tighter=False), tight)):
        through = replace(target, attack_model=fold(surrogate))
        adversarials, trace = attack.solve(through.problem(len(target.images)))
        passes += trace.forward_passes + trace.backward_passes
        broken |= judge(target, adversarials, subject=subject).success
        against |= broken | judge(replace(target, classifier=tight), adversarials, subject=subject).success
    return Found(against=against, passes=passes, broken=broken)


def _solved(classifier: nn.Module, *, tighter: bool) -> nn.Module:
    """The same network with other solvers: with a smaller error, or with fixed steps where they are not."""
    other = copy.deepcopy(classifier)
    for flow in flows_of(other):
        flow.solver = flow.solver.tighter() if tighter else _fixed(flow.solver)
    return other


def _fixed(solver: AbstractSolver) -> AbstractSolver:
    return solver if isinstance(solver, FixedStepSolver) else RungeKutta4(steps=STEPS)
