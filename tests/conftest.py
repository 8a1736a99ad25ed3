"""Shapes in signatures are checked while tests run, and what tests of several packages need."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

# Small tensors: one thread is as fast as many, and several workers do not fight over the cores.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Checking every call doubles the time of tests that attack thousands of times."""
    parser.addoption("--no-shape-checks", action="store_true", help="do not check the shapes of arguments and results")


def pytest_configure(config: pytest.Config) -> None:
    """The hook must be in place before the package is imported."""
    if not config.getoption("--no-shape-checks"):
        install_import_hook("robustbench_bcos", "beartype.beartype")


SHORT = {
    # How often the nearest images are searched again.
    "evidence.contexts": {"AGAIN": 8, "FEWEST_AGAIN": 2, "IN_VAIN": 8},
    # How often each model is asked before its gradients are believed.
    "evidence.answers": {"DIRECTIONS": 6, "REPETITIONS": 1},
    # How long gradients are measured where they are in doubt.
    "evidence.checks.estimated_gradients": {"STEPS": 3, "DIRECTIONS": 4},
    # Steps along the boundary for each step of an attack.
    "stages.distances": {"REPEATED": 1},
}
"""Numbers of modules that are smaller in tests."""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes inherit whether SIGINT is ignored, which a shell decides for what runs in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def second_search() -> Iterator[dict[tuple[Any, str], Any]]:
    """The second search of every number takes few steps; what it really does, by module and name, for tests of it."""
    # Imported here: after the hook.
    from robustbench_bcos.attacks.searches.apgd import APGD
    from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
    from robustbench_bcos.bench.evidence.checks import other_losses

    smaller = {import_module(f"robustbench_bcos.bench.{module}"): numbers for module, numbers in SHORT.items()}
    shortened = [(module, name) for module, numbers in smaller.items() for name in numbers]
    shortened += [(other_losses, name) for name in ("SCREEN", "DEEP")]
    really: dict[tuple[Any, str], Any] = {(module, name): getattr(module, name) for module, name in shortened}
    with pytest.MonkeyPatch.context() as shorter:
        aimed = TargetedAPGD(steps=5, targets=1, candidates=2, brief=True)
        shorter.setattr(other_losses, "SCREEN", (aimed, APGD(steps=2, loss="margin")))
        shorter.setattr(other_losses, "DEEP", (replace(aimed, targets=2), APGD(steps=5)))
        for module, numbers in smaller.items():
            for name, value in numbers.items():
                shorter.setattr(module, name, value)
        yield really


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """Nobody cuts the power in the middle of a test, and processes that are killed have written all the same."""
    from robustbench_bcos.bench.store import Store

    opened = Store.__init__

    def unsynchronised(store: Store, *arguments: Any, **named: Any) -> None:
        opened(store, *arguments, **named)
        store._database.execute("PRAGMA synchronous = OFF")

    with pytest.MonkeyPatch.context() as faster:
        faster.setattr(Store, "__init__", unsynchronised)
        yield


@pytest.fixture
def whole_second_search(second_search: dict[tuple[Any, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As users have it."""
    for (module, name), value in second_search.items():
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test or its plug-ins register is forgotten after it; plug-ins are read anew."""
    # Imported here: after the hook.
    from robustbench_bcos.attacks import ATTACKS, CRITERIA, GOALS, LOSSES, NORMS
    from robustbench_bcos.attacks.searches.square import MOVES
    from robustbench_bcos.bench.evidence import CHECKS
    from robustbench_bcos.core.registry import Registry
    from robustbench_bcos.data import DATASETS
    from robustbench_bcos.dynamics import SOLVERS, SYSTEMS
    from robustbench_bcos.explanations import METHODS
    from robustbench_bcos.localisation import GAMES, PROTOCOLS
    from robustbench_bcos.model_zoo.architectures import ARCHITECTURES
    from robustbench_bcos.model_zoo.exporting import FORMATS

    registry: Registry[Any]
    for registry in (
        ATTACKS,
        CRITERIA,
        GOALS,
        LOSSES,
        NORMS,
        MOVES,
        CHECKS,
        DATASETS,
        METHODS,
        ARCHITECTURES,
        FORMATS,
        SOLVERS,
        SYSTEMS,
        GAMES,
        PROTOCOLS,
    ):
        # All of them, because what is imported once does not register itself again.
        monkeypatch.setattr(registry, "_entries", {name: registry[name] for name in registry})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("robustbench_bcos_plugin_"):
            del sys.modules[name]
