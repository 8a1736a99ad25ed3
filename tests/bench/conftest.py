"""The tiny zoo, a store in memory, and the run of a module that accidents happen to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_bcos.bench.store import Store
from tests.bench.tiny_zoo import NAMES, write_tiny_zoo
from tests.cli.command_line import succeed


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def command(request: pytest.FixtureRequest, tiny_zoo: Path) -> list[str]:
    """The run of both networks with the ``OPTIONS`` of the module, without the folder it goes to."""
    options: str = request.module.OPTIONS
    return ["run", *options.split(), "--zoo", str(tiny_zoo), "--model", ",".join(NAMES), "--out"]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run, to which nothing happened."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    succeed(*command, folder)
    return folder


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as opened:
        yield opened
