"""Several trainings, in this process or by jobs: none is kept from its end by another's, and none is made twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.dispatch import ATTEMPTS
from robustbench_bcos.bench.executor import AbstractExecutor, Stopped
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.job_folder import JobFolder
from robustbench_bcos.bench.run_files import CONFIGURATION, LOCK
from robustbench_bcos.core.disk import held
from robustbench_bcos.core.disk import made as made_folder
from robustbench_bcos.core.errors import Interrupted, RequestError
from robustbench_bcos.model_zoo.cards import Card, WeightsSpec
from robustbench_bcos.training import crew
from robustbench_bcos.training.crew import Outcome, train_all
from robustbench_bcos.training.recipes import RECIPES, ModelSpec, Recipe, Training
from robustbench_bcos.training.trainer import Epoch
from tests.bench.executors.inline import Ended, do, inline
from tests.cli.command_line import refusal, succeed

EPOCH = Epoch(number=1, loss=0.5, accuracy=0.5, seconds=0.0)


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    yield
    Ended.cancelled = False


def card(name: str) -> Card:
    recipe = RECIPES.load("digits-natural")
    values: dict[str, Any] = {key: getattr(recipe, key) for key in ModelSpec.model_fields} | {"name": name}
    return Card(**values, weights=WeightsSpec(file="w", sha256="0" * 64), licence="none")


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Any]]:
    """What is trained: names, and what images had to be; what a name says is what becomes of a training."""
    asked: list[tuple[str, Any]] = []

    def make_model(recipe: Recipe, folder: Path, *, on_epoch: Any, elsewhere: Any, **_: Any) -> Card:
        asked.append((recipe.name, elsewhere))
        on_epoch(EPOCH)
        if recipe.name == "refused":
            raise RequestError("no such thing: choose another")
        if recipe.name == "broken":
            raise ZeroDivisionError("by nothing")
        return card(recipe.name)

    monkeypatch.setattr(crew, "make_model", make_model)
    monkeypatch.setattr(crew, "split_digests", lambda name, **_: ("training images", "test images"))
    monkeypatch.chdir(tmp_path)
    return asked


def trainings(*names: str) -> list[Training]:
    recipe = RECIPES.load("digits-natural")
    return [Training(recipe=recipe.model_copy(update={"name": name})) for name in names]


def outcomes(
    kind: type[AbstractExecutor], *names: str, watch: Any = lambda *_: None, **flags: Any
) -> dict[str, Outcome]:
    found = list(
        train_all(trainings(*names), kind, config=make_config(flags), dataset=None, folder=Path("zoo"), watch=watch)
    )
    assert len(found) == len(names)
    return {outcome.name: outcome for outcome in found}


def test_in_this_process_epochs_are_told() -> None:
    told: list[tuple[str, Epoch]] = []
    found = outcomes(EXECUTORS["local"], "a", watch=lambda training, epoch: told.append((training.recipe.name, epoch)))
    assert found == {"a": Outcome(name="a", card=card("a"))}
    assert told == [("a", EPOCH)]


@pytest.mark.parametrize("kind", [EXECUTORS["local"], inline(), EXECUTORS["debug"]], ids=lambda kind: kind.name)
def test_a_training_that_fails_is_named_and_the_others_go_on(kind: type[AbstractExecutor]) -> None:
    if kind.name == "debug":
        pytest.importorskip("submitit")
    found = outcomes(kind, "refused", "broken", "fine")
    assert found["fine"] == Outcome(name="fine", card=card("fine"))
    assert found["refused"] == Outcome(name="refused", failure="no such thing: choose another")
    assert found["broken"].card is None
    assert "ZeroDivisionError: by nothing" in found["broken"].failure
    assert "in make_model" in found["broken"].details


def test_jobs_are_told_which_images_there_were_and_leave_nothing_but_logs(made: list[tuple[str, Any]]) -> None:
    kind = inline()
    outcomes(kind, "a", "b")
    assert made == [(name, ["training images", "test images"]) for name in "ab"]
    assert len({unit.name for unit in kind.seen}) == 2
    assert not list(Path("zoo/jobs").iterdir())


def test_jobs_that_leave_nothing_are_a_failed_training(made: list[tuple[str, Any]]) -> None:
    kind = inline(fault=lambda job, unit, number: None if unit.recipe.name == "dead" else do(job, unit, number))
    found = outcomes(kind, "dead", "a")
    assert found["dead"].failure.startswith(f"{ATTEMPTS} jobs have ended without an answer in training of dead: see ")
    assert found["a"].card is not None
    assert [unit.recipe.name for unit in kind.seen] == ["dead", "a", *["dead"] * (ATTEMPTS - 1)]


def test_a_training_that_comes_further_with_every_job_is_submitted_until_it_is_done() -> None:
    def meets_its_limit(job: Any, unit: Training, number: int) -> None:
        if number == 2 * ATTEMPTS:
            job.carry_out(unit)
            return
        (job.jobs.run / "a.ckpt").write_text("x" * number, encoding="utf-8")

    assert outcomes(inline(fault=meets_its_limit), "a")["a"].card is not None


def test_a_job_that_is_stopped_has_not_failed() -> None:
    def stopped(job: Any, unit: Training, number: int) -> None:
        def check() -> None:
            raise Stopped

        if number:
            job.carry_out(unit)
        else:
            with pytest.raises(Stopped):
                job.carry_out(unit, check)

    assert outcomes(inline(fault=stopped), "a")["a"].card is not None


def test_a_second_command_for_the_folder_is_refused(made: list[tuple[str, Any]]) -> None:
    with held(Path("zoo") / LOCK), pytest.raises(RequestError, match="in the hands of another process: wait for"):
        outcomes(inline(), "a")
    assert made == []


def test_cancelling_ends_what_is_submitted_and_status_says_how_far_it_is() -> None:
    class Waiting(Ended):
        def alive(self) -> bool:
            told.append(succeed("train", "--status", "zoo"))
            told.append(succeed("train", "--cancel", "zoo"))
            return True

    class Queue(inline(fault=lambda *_: None)):  # type: ignore[misc] # made for this test
        def submit(self, units: Any, *, others: bool = False) -> Any:
            return [Waiting() for _ in super().submit(units, others=others)]

    told: list[str] = []
    with pytest.raises(Interrupted, match="cancelled; repeat the same command to continue in zoo"):
        outcomes(Queue, "a", "b")
    assert Waiting.cancelled
    epochs = RECIPES.load("digits-natural").epochs
    lines = [line.replace("│", "").split() for line in told[0].splitlines()]
    assert ["a", "0", f"{epochs}"] in lines
    assert "training of b" in told[0]
    assert "A process is at work on it" in told[0]
    assert "Cancelled 0 jobs of zoo, and the process that submits them stops" in told[1]


def test_status_tells_of_trainings_alone_and_of_nothing_as_complete() -> None:
    jobs = JobFolder(made_folder(Path("other")))
    jobs.open()
    assert "No process is at work on it: the same command continues it." in succeed("train", "--status", "other")
    with held(Path("other/a.lock")):
        assert "A process is at work on it." in succeed("train", "--status", "other")
    jobs.order({"costs": {"net": {"seconds": 1}}})
    Path("other", CONFIGURATION).touch()
    assert "has no logs of trainings" in refusal("train", "--status", "other")


def test_a_job_that_is_put_into_the_queue_after_its_answer_is_ended() -> None:
    class Again(Ended):
        def alive(self) -> bool:
            return not self.cancelled

    class Queue(inline()):  # type: ignore[misc] # made for this test
        def submit(self, units: Any, *, others: bool = False) -> Any:
            return [Again() for _ in super().submit(units, others=others)]

    assert outcomes(Queue, "a")["a"].card is not None
    assert Again.cancelled


def test_jobs_of_slurm_have_a_folder_that_all_machines_see(monkeypatch: pytest.MonkeyPatch) -> None:
    from robustbench_bcos.bench.executors import slurm

    monkeypatch.setattr(slurm, "_said", lambda command: "node1\nnode2\n")
    with pytest.raises(RequestError, match="in a folder that every machine has for itself"):
        outcomes(slurm.Slurm, "a")
