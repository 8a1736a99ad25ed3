"""Several at a time: all is told, errors and interruptions end it, and no number depends on it."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.threads import in_threads
from tests.bench.by_hand import clean_row, holding
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import carry_out, measure, tiny_request


def count(start: int, end: int) -> Iterator[int]:
    yield from range(start, end)


@pytest.mark.parametrize("jobs", [1, 2, 3, 10])
def test_all_that_is_told_is_passed_on_and_each_task_keeps_its_order(jobs: int) -> None:
    tasks = [partial(count, 10 * number, 10 * number + 5) for number in range(4)]
    told = list(in_threads(tasks, jobs))
    assert sorted(told) == [10 * number + step for number in range(4) for step in range(5)]
    for number in range(4):
        own = [item for item in told if item // 10 == number]
        assert own == sorted(own)
    assert list(in_threads([], jobs)) == []


def test_so_many_are_worked_on_at_a_time_and_no_more() -> None:
    barrier = threading.Barrier(3, timeout=10)
    together, lock, most = [0], threading.Lock(), [0]

    def task() -> Iterator[str]:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        # Nobody gets past unless three are here at once.
        barrier.wait()
        time.sleep(0.02)
        with lock:
            together[0] -= 1
        yield threading.current_thread().name

    names = list(in_threads([task] * 6, 3))
    assert most == [3]
    assert threading.current_thread().name not in names


def test_every_thread_works_with_as_many_threads_as_the_caller() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # As each replica's thread does, which concerns no other thread.
            threading.Thread(target=torch.set_num_threads, args=(1,)).start()
            assert set(in_threads([lambda: iter([torch.get_num_threads()])] * 4, 2)) == {threads}
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_error_ends_all(jobs: int) -> None:
    class Broken(Exception):
        pass

    begun = []

    def broken() -> Iterator[int]:
        yield 1
        raise Broken

    def endless(number: int) -> Iterator[int]:
        begun.append(number)
        while True:
            time.sleep(0.001)
            yield 2

    told: list[int] = []
    with pytest.raises(Broken):
        told.extend(in_threads([broken, partial(endless, 1), partial(endless, 2)], jobs))
    assert 1 in told
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())
    assert 2 not in begun, "what had not begun never does"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_caller_that_stops_listening_ends_all(jobs: int) -> None:
    ended = []

    def endless(number: int) -> Iterator[int]:
        try:
            while True:
                yield number
        finally:
            ended.append(number)

    told = in_threads([partial(endless, 1), partial(endless, 2)], jobs)
    next(told)
    told.close()
    assert sorted(ended) == [1, 2][:jobs]
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())


def test_numbers_do_not_depend_on_how_many_models_are_worked_on_at_a_time(tiny_zoo: Path) -> None:
    asked: dict[str, Any] = {"limit": 4, "evidence": "quick", "distances": True, "explained": 2}
    alone, together = (measure(tiny_request(tiny_zoo, **asked, jobs=jobs)) for jobs in (1, 2))
    pd.testing.assert_frame_equal(alone, together, check_exact=True)


def test_an_interrupted_run_is_continued_with_another_number_of_jobs(tiny_zoo: Path) -> None:
    asked: dict[str, Any] = {"eps": ("0.2", "0.5"), "batch_size": 2, "limit": 12}
    whole = measure(tiny_request(tiny_zoo, **asked))
    with Store() as store:
        steps = execute(tiny_request(tiny_zoo, **asked, jobs=2), store)
        while next(steps).images == 0:
            pass
        steps.close()
        request = tiny_request(tiny_zoo, **asked, jobs=1)
        done = sum(len(store.done(cell)) for cell in request.cells)
        assert 0 < done < 12 * len(request.cells)
        carry_out(request, store)
        rows = make_records(store, request.identity)
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)


class Meeting(nn.Module):
    """Answers only once two threads ask at the same time."""

    barrier = threading.Barrier(2, timeout=20)
    met = threading.Event()

    def forward(self, images: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread() and not self.met.is_set():
            self.barrier.wait()
            self.met.set()
        return images.flatten(1)[:, :2]


def test_models_are_attacked_at_the_same_time() -> None:
    images, labels = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    asked: dict[str, Any] = {"norm": ("l2",), "eps": ("0.1",), "steps": (1,), "evidence": "off", "jobs": 2}
    measure(own_request({"one": Meeting(), "two": Meeting()}, images, labels, 2, **asked))
    assert Meeting.met.is_set()


def test_threads_share_a_store_without_mixing_their_transactions() -> None:
    class Slow:
        """A label that takes its time in the middle of a transaction, where the other thread would come in."""

        def __conform__(self, _: object) -> int:
            time.sleep(0.002)
            return 0

    def rows(model: str) -> Iterator[int]:
        for image in range(40):
            store.add(clean_row(image, model=model), holding(clean_row(image + 1000, model=model), label=Slow()))
            # Readers see whole transactions.
            assert len(store.clean("a")) % 2 == len(store.clean("b")) % 2 == 0
            yield image

    with Store() as store:
        assert len(list(in_threads([partial(rows, "a"), partial(rows, "b")], 2))) == 80
        assert [len(store.clean(model)) for model in "ab"] == [80, 80]
