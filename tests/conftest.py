"""Shapes in signatures are checked while tests run, and what tests of several packages need."""

import signal
import sys
from collections.abc import Iterator
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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes inherit whether SIGINT is ignored, which a shell decides for what runs in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test or its plug-ins register is forgotten after it; plug-ins are read anew."""
    # Imported here: after the hook.
    from robustbench_bcos.attacks import ATTACKS, CRITERIA, GOALS, LOSSES, NORMS
    from robustbench_bcos.attacks.searches.square import MOVES
    from robustbench_bcos.bench.evidence import CHECKS
    from robustbench_bcos.core.registry import Registry
    from robustbench_bcos.data import DATASETS
    from robustbench_bcos.dynamics import SOLVERS
    from robustbench_bcos.explanations import METHODS
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
    ):
        # All of them, because what is imported once does not register itself again.
        monkeypatch.setattr(registry, "_entries", {name: registry[name] for name in registry})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("robustbench_bcos_plugin_"):
            del sys.modules[name]
