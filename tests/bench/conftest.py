"""The tiny zoo, and a store in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_bcos.bench.store import Store
from tests.bench.tiny_zoo import write_tiny_zoo


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as opened:
        yield opened
