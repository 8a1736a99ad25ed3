"""The models of a run in memory: loaded and prepared once, and let go of where memory is short."""

import threading
import time
from dataclasses import dataclass, field, replace

import pytest
from torch import nn

from robustbench_bcos.bench import models
from robustbench_bcos.bench.models import SHARE, ModelCache
from robustbench_bcos.bench.threads import in_threads
from robustbench_bcos.model_zoo.models import Model, ModelSource, own_model

BYTES = 2 * 100 * 4
"""Of a model and its fast copy."""


@dataclass(frozen=True)
class Counted(ModelSource):
    """A source that remembers each time it was loaded, and whether another one was being loaded then."""

    label: str
    loaded: list[str]
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.label

    def load(self) -> Model:
        assert self.busy.acquire(blocking=False), "libraries draw first weights from the global generator"
        time.sleep(0.01)
        self.loaded.append(self.label)
        self.busy.release()
        return own_model(self.label, nn.Linear(10, 10, bias=False))


@pytest.fixture
def loaded() -> list[str]:
    return []


@pytest.fixture
def sources(loaded: list[str]) -> dict[str, Counted]:
    busy = threading.Lock()
    return {name: Counted(name, loaded, busy) for name in "abcd"}


def test_a_model_is_loaded_and_prepared_once(sources: dict[str, Counted], loaded: list[str]) -> None:
    cache = ModelCache(lambda model: replace(model, attack_backend=f"{model.attack_backend}prepared"))
    first = cache.get(sources["a"])
    assert first.attack_backend == "prepared"
    assert cache.get(sources["b"]).name == "b"
    assert cache.get(sources["a"]) is first
    assert loaded == ["a", "b"]


@pytest.mark.parametrize(("room", "kept"), [(4, "abcd"), (3, "bcd"), (2, "cd"), (1, "d"), (0, "d")])
def test_those_used_longest_ago_are_let_go_of_where_memory_is_short(
    room: int, kept: str, sources: dict[str, Counted], loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "memory_of", lambda _: (room * BYTES + 1) / SHARE)
    cache = ModelCache(lambda model: model)
    for source in sources.values():
        cache.get(source)
    loaded.clear()
    # From the one used last, so that none pushes out another before it is asked for.
    for name in reversed("abcd"):
        cache.get(sources[name])
        if name not in kept:
            break
    assert loaded == [name for name in reversed("abcd") if name not in kept][:1]


def test_what_was_used_again_is_not_the_oldest(
    sources: dict[str, Counted], loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "memory_of", lambda _: (2 * BYTES + 1) / SHARE)
    cache = ModelCache(lambda model: model)
    for name in "abaca":
        cache.get(sources[name])
    assert loaded == ["a", "b", "c"]


def test_threads_share_it_and_load_one_at_a_time(sources: dict[str, Counted], loaded: list[str]) -> None:
    cache = ModelCache(lambda model: model)
    tasks = [lambda name=name: iter([cache.get(sources[name])]) for name in "abcd" * 3]
    found = list(in_threads(tasks, 4))
    assert sorted(loaded) == list("abcd")
    assert {id(model) for model in found} == {id(cache.get(source)) for source in sources.values()}
