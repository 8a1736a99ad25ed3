"""Several trainings one after another, or some at a time, each then in a process of its own with one thread."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.processes import context_with
from robustbench_bcos.model_zoo.cards import Card
from robustbench_bcos.training.trainer import Epoch

MODULES = ["robustbench_bcos.training.crew", "robustbench_bcos.training.workshop"]
"""Imported once, by the process that the others are forked from."""


Watch = Callable[[Epoch], None]
"""Called after every epoch."""

Task = Callable[..., Card]
"""Makes one model, given a watch as ``on_epoch``; for another process it must be something that pickle takes."""


class Outcome(NamedTuple):
    """What became of one training."""

    name: str
    card: Card | None
    """``None`` where it failed."""
    failure: str = ""
    """In one sentence."""
    details: str = ""
    """The traceback of a failure that nobody foresaw."""


def train_all(tasks: Mapping[str, Task], jobs: int, watches: Mapping[str, Watch]) -> Generator[Outcome, None, None]:
    """Make every model, and give outcomes as they come; a training that fails does not keep the others from theirs.

    Leaving the iterator, by an interruption too, ends the processes; what they have trained so far is in checkpoints.

    Args:
        tasks: by the model's name.
        jobs: so many at a time; 1 is in this process.
        watches: told of each epoch, by the model's name, where the training is in this process.
    """
    if jobs == 1:
        for name, task in tasks.items():
            yield _outcome(name, task, watches[name])
    else:
        yield from _side_by_side(tasks, jobs)


def _outcome(name: str, task: Task, watch: Watch) -> Outcome:
    try:
        return Outcome(name, task(on_epoch=watch))
    except RequestError as error:
        return Outcome(name, None, str(error))
    except Exception as error:  # Whatever it is, the others go on.
        return Outcome(name, None, f"{type(error).__name__}: {error}", traceback.format_exc())


def _side_by_side(tasks: Mapping[str, Task], jobs: int) -> Generator[Outcome, None, None]:
    context = context_with(*MODULES)
    waiting = list(tasks.items())[::-1]
    running: dict[Connection, tuple[str, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, task = waiting.pop()
                answer, channel = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_work, args=(name, task, channel), daemon=True)
                process.start()
                # Open in the other process alone: when that ends, so does the answer.
                channel.close()
                running[answer] = name, process
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                yield _answer(*running.pop(ready), ready)
    finally:
        left = [process for _, process in running.values()]
        for process in left:
            process.terminate()
        for process in left:
            process.join()


def _work(name: str, task: Task, channel: Connection) -> None:
    # The process that started this one decides what an interruption means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    channel.send(_outcome(name, task, _stop_without_parent))


def _stop_without_parent(epoch: Epoch) -> None:
    """A command that is repeated after its process was killed must not find the old trainings still at work."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit


def _answer(name: str, process: BaseProcess, answer: Connection) -> Outcome:
    with answer:
        try:
            outcome: Outcome = answer.recv()
        except EOFError:
            process.join()
            return Outcome(name, None, f"its process ended with exit code {process.exitcode}")
    process.join()
    return outcome
