"""Several models worked on at the same time, each in a thread of its own.

Threads and not processes: nearly all time is spent in torch's kernels, which other threads need not wait for, and
models and the store stay where they are. What is measured does not depend on it, because no two models share a number.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

import torch

T = TypeVar("T")
Task = Callable[[], Iterator[T]]


def in_threads(tasks: Sequence[Task[T]], jobs: int) -> Iterator[T]:
    """Run a number of tasks at a time, and pass on what each yields as it comes.

    The first exception cancels the remaining tasks, and so does closing the iterator; running tasks stop at their next
    item.

    Args:
        tasks: each gives an iterator, which is run through in one thread.
        jobs: threads; one is the caller's own.
    """
    if min(jobs, len(tasks)) <= 1:
        for task in tasks:
            yield from task()
        return
    told: SimpleQueue[T | Future[None]] = SimpleQueue()
    stopped = Event()

    def work(task: Task[T]) -> None:
        items = iter(()) if stopped.is_set() else task()
        try:
            for item in items:
                told.put(item)
                if stopped.is_set():
                    return
        except BaseException:
            # Here, so that this thread does not begin another task before the caller knows.
            stopped.set()
            raise

    # Where another thread was given fewer, new ones would have as few.
    with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)) as pool:
        try:
            for task in tasks:
                pool.submit(work, task).add_done_callback(told.put)
            working = len(tasks)
            while working:
                item = told.get()
                if isinstance(item, Future):
                    item.result()
                    working -= 1
                else:
                    yield item
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
