"""The tiny zoo; and every command starts in an empty folder, so that what it leaves behind is seen."""

from pathlib import Path

import pytest

from tests.bench.tiny_zoo import write_tiny_zoo


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
