"""Several trainings at a time: each in a process of its own, none kept from its end by another's."""

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import Card, WeightsSpec
from robustbench_bcos.training import crew
from robustbench_bcos.training.crew import Outcome, train_all
from robustbench_bcos.training.recipes import RECIPES, ModelSpec
from robustbench_bcos.training.trainer import Epoch

Watch = Callable[[Epoch], None]


def card(name: str) -> Card:
    recipe = RECIPES.load("digits-natural")
    values: dict[str, Any] = {key: getattr(recipe, key) for key in ModelSpec.model_fields} | {"name": name}
    return Card(**values, weights=WeightsSpec(file="w", sha256="0" * 64), licence="none")


# Tasks stand at the top of the module, where another process finds them.


def succeed(name: str, *, on_epoch: Watch) -> Card:
    on_epoch(Epoch(1, 0.5, 0.5, 0.0))
    return card(f"{name}-{os.getpid()}-{torch.get_num_threads()}")


def refuse(*, on_epoch: Watch) -> Card:
    raise RequestError("no such thing: choose another")


def fail(*, on_epoch: Watch) -> Card:
    raise ZeroDivisionError("by nothing")


def die(*, on_epoch: Watch) -> Card:
    os._exit(9)


def meet(folder: Path, mine: str, other: str, *, on_epoch: Watch) -> Card:
    """Ends once the other has begun, which it never does if one is trained after the other."""
    (folder / mine).touch()
    give_up = time.monotonic() + 60
    while not (folder / other).exists():
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return card(mine)


def last_long(folder: Path, name: str, *, on_epoch: Watch) -> Card:
    (folder / name).write_text(str(os.getpid()))
    time.sleep(90)
    return card(name)


def ignored(epoch: Epoch) -> None:
    """In this process nobody is told of epochs in another."""
    raise AssertionError(epoch)


def outcomes(tasks: dict[str, Any], jobs: int) -> dict[str, Outcome]:
    watches = {} if jobs > 1 else dict.fromkeys(tasks, lambda epoch: None)
    found = list(train_all(tasks, jobs, watches))
    assert len(found) == len(tasks)
    return {outcome.name: outcome for outcome in found}


def test_each_training_has_a_process_of_its_own_with_one_thread() -> None:
    found = outcomes({name: partial(succeed, name) for name in "abc"}, 2)
    told = [outcome.card.name.split("-") for outcome in found.values() if outcome.card is not None]
    assert sorted(name for name, _, _ in told) == ["a", "b", "c"]
    pids = {pid for _, pid, _ in told}
    assert len(pids) == 3
    assert str(os.getpid()) not in pids
    assert {threads for _, _, threads in told} == {"1"}


def test_as_many_are_at_work_as_there_are_jobs(tmp_path: Path) -> None:
    found = outcomes({"a": partial(meet, tmp_path, "a", "b"), "b": partial(meet, tmp_path, "b", "a")}, 2)
    assert [found[name].failure for name in "ab"] == ["", ""]


def test_one_job_is_this_process_and_tells_of_epochs() -> None:
    told: list[Epoch] = []
    (outcome,) = train_all({"a": partial(succeed, "a")}, 1, {"a": told.append})
    assert outcome.card is not None
    assert outcome.card.name.split("-")[1] == str(os.getpid())
    assert [epoch.number for epoch in told] == [1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_training_that_fails_is_named_and_the_others_go_on(jobs: int) -> None:
    found = outcomes({"refused": refuse, "broken": fail, "fine": partial(succeed, "fine")}, jobs)
    assert found["fine"].card is not None
    assert found["refused"] == Outcome("refused", None, "no such thing: choose another")
    assert (found["broken"].card, found["broken"].failure) == (None, "ZeroDivisionError: by nothing")
    assert "in fail" in found["broken"].details


def test_a_process_that_dies_is_a_failed_training() -> None:
    found = outcomes({"dead": die, "a": partial(succeed, "a"), "b": partial(succeed, "b")}, 2)
    assert found["dead"] == Outcome("dead", None, "its process ended with exit code 9")
    assert found["a"].card is not None
    assert found["b"].card is not None


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_leaving_ends_the_trainings_that_are_at_work_and_begins_no_other(tmp_path: Path) -> None:
    tasks = {"first": partial(succeed, "first")}
    tasks |= {name: partial(last_long, tmp_path, name) for name in ("a", "b", "c")}
    work = train_all(tasks, 3, {})
    assert next(work).name == "first"
    give_up = time.monotonic() + 60
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    started = time.monotonic()
    work.close()
    assert time.monotonic() - started < 60
    assert not (tmp_path / "c").exists()
    for name in "ab":
        assert gone(int((tmp_path / name).read_text()))


def test_a_training_whose_parent_is_gone_ends_at_its_next_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = SimpleNamespace(is_alive=lambda: True)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    crew._stop_without_parent(Epoch(1, 0.5, 0.5, 0.0))
    parent.is_alive = lambda: False
    with pytest.raises(SystemExit):
        crew._stop_without_parent(Epoch(1, 0.5, 0.5, 0.0))
