"""What solving costs beside the evaluations of the field, and an adaptive solver beside fixed steps at equal error.

    python benchmarks/dynamics.py [--images 64] [--rounds 15]

A B-cos ODE network for digits, random weights. First ratio: a step of an attack through RK4 (forward and backward),
over as many evaluations of its fields alone, forward and backward, with stem, halving and head. Then solvers whose
steps are chosen for each image, adaptive_rk4 and torchode's dopri5, each over RK4 with the fewest steps whose largest
error is not larger. All take turns, so that a busy machine slows all; the median of the rounds' ratios counts. Prints a
table and one line of JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustbench_bcos.dynamics.solver import AbstractSolver
from robustbench_bcos.dynamics.solvers.adaptive_rk4 import AdaptiveRungeKutta4
from robustbench_bcos.dynamics.solvers.rk4 import RungeKutta4
from robustbench_bcos.dynamics.solvers.torchode import Torchode
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.architectures.odenet import Flow, flows_of
from robustbench_bcos.model_zoo.bcos.folding import fold

STEPS = 4
TOLERANCE = 1e-4
METHOD = "dopri5"
ADAPTIVE: dict[str, AbstractSolver] = {
    "adaptive_rk4": AdaptiveRungeKutta4(rtol=TOLERANCE, atol=TOLERANCE),
    f"torchode {METHOD}": Torchode(rtol=TOLERANCE, atol=TOLERANCE, method=METHOD),
}
TRIED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Evaluated(nn.Module):
    """In place of a flow: its field evaluated one after the other, so often, with nothing in between."""

    def __init__(self, field: nn.Module, evaluations: int) -> None:
        super().__init__()
        self.field, self.evaluations = field, evaluations

    def forward(self, states: Tensor) -> Tensor:
        for _ in range(self.evaluations):
            states = self.field(states)
        return states


def make() -> nn.Module:
    network = build_architecture("bcos_odenet", in_channels=6, classes=10, arguments={"steps": STEPS})
    initialise(network, torch.Generator().manual_seed(0))
    # Running variances are those of random features, so that fields move the features about as trained ones do.
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(images(64))
    return network.eval().requires_grad_(False)


def images(count: int) -> Tensor:
    rgb = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.cat([rgb, 1 - rgb], dim=1)


def alone(network: nn.Module) -> nn.Module:
    copy = fold(network)
    for name, module in list(copy.stages.named_children()):
        if isinstance(module, Flow):
            setattr(copy.stages, name, Evaluated(module.field, 4 * STEPS))
    return copy


def solved(network: nn.Module, solver: AbstractSolver) -> nn.Module:
    copy = fold(network)
    for flow in flows_of(copy):
        flow.solver = solver
    return copy


def step(network: nn.Module, encoded: Tensor) -> Callable[[], None]:
    def once() -> None:
        leaf = encoded.clone().requires_grad_()
        torch.autograd.grad(network(leaf).sum(), leaf)

    return once


def seconds_of(tasks: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            began = time.process_time()
            task()
            if number:
                seconds[name].append(time.process_time() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """The median of the rounds' ratios: a busy moment slows both."""
    return statistics.median(one / other for one, other in zip(seconds[over], seconds[under], strict=True))


def fewest_steps(network: nn.Module, encoded: Tensor, solver: AbstractSolver) -> tuple[int, float]:
    """Steps of RK4 whose largest error of a logit is at most the adaptive solver's."""
    with torch.no_grad():
        exact = solved(network.double(), RungeKutta4(steps=256))(encoded.double())
        adaptive = solved(network, solver)(encoded.double())
        allowed = float((adaptive - exact).abs().max())
        for steps in TRIED:
            error = float((solved(network, RungeKutta4(steps=steps))(encoded.double()) - exact).abs().max())
            if error <= allowed:
                break
    network.float()
    return steps, allowed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    network, encoded = make(), images(asked.images)
    found = {name: fewest_steps(network, encoded, solver) for name, solver in ADAPTIVE.items()}
    fixed = {name: f"RK4, {steps} steps" for name, (steps, _) in found.items()}
    tasks = {
        "attack step, RK4": step(solved(network, RungeKutta4(steps=STEPS)), encoded),
        "its evaluations alone": step(alone(network), encoded),
    }
    for name, solver in ADAPTIVE.items():
        tasks[fixed[name]] = step(solved(network, RungeKutta4(steps=found[name][0])), encoded)
        tasks[name] = step(solved(network, solver), encoded)
    seconds = seconds_of(tasks, asked.rounds)
    ratios = {"solver over evaluations": ratio(seconds, "attack step, RK4", "its evaluations alone")}
    ratios |= {f"{name} over {fixed[name]}": ratio(seconds, name, fixed[name]) for name in ADAPTIVE}
    errors = {f"largest error, {name}": error for name, (_, error) in found.items()}
    table = Table("what", "CPU milliseconds")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        table.add_row(name, f"{1e3 * median:.1f}")
    Console().print(table)
    print(json.dumps({"images": asked.images, **errors, **medians, **ratios}))


if __name__ == "__main__":
    main()
