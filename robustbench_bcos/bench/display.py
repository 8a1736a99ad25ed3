"""How a run goes on: a live display where somebody watches, and a line now and then where it goes to a file."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from robustbench_bcos.bench.progress import Step

S = TypeVar("S", bound=Step)

EVERY = 10
"""Seconds between two lines."""


def watch(steps: Iterable[S], total: int, console: Console | None) -> Iterator[S]:
    """Pass progress through, showing it on the way.

    Args:
        steps: what the runner tells.
        total: images of all cells of all models.
        console: where it is shown; nothing is shown without one.
    """
    if console is None:
        return iter(steps)
    # Notebooks are no terminals, and draw what is live as one does.
    live = console.is_terminal or console.is_jupyter
    return _displayed(steps, total, console) if live else in_lines(steps, total, console)


def in_lines(
    steps: Iterable[S], total: int, console: Console, clock: Callable[[], float] = time.monotonic
) -> Iterator[S]:
    """Pass progress through and print a line at its beginning, one every ten seconds, and one at its end."""
    began = clock()
    tally, told = _Tally(), float("-inf")
    for step in steps:
        tally.add(step)
        now, done = clock(), tally.done
        if now - told >= EVERY or done == total:
            told, left = now, ""
            if tally.found < tally.reached < total:
                seconds = (now - began) / (tally.reached - tally.found) * (total - tally.reached)
                left = f", {timedelta(seconds=round(seconds))} left"
            line = f"{done} of {total} images{left}: {_subject(step)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        yield step


class _Tally:
    """How much has been done."""

    def __init__(self) -> None:
        self.done = 0
        """Images that are done."""
        self.found = 0.0
        """What earlier sessions have done, in images, which says nothing about the speed of this one."""
        self._begun: set[str] = set()
        self._under_way: dict[str, float] = {}

    def add(self, step: Step) -> None:
        """Count a piece of work."""
        self.done += step.images
        if not step.rows and not step.stage:
            self.found += step.images
        if step.stage and step.key not in self._begun:
            self._begun.add(step.key)
            self.found += step.under_way
        # By model, because several are worked on at the same time.
        self._under_way[step.model] = step.under_way

    @property
    def reached(self) -> float:
        """These, and what is done of others, in images."""
        return self.done + sum(self._under_way.values())


def _subject(step: Step) -> str:
    return f"{step.subject} ({step.stage})" if step.stage else step.subject


def _displayed(steps: Iterable[S], total: int, console: Console) -> Iterator[S]:
    display = Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with display:
        task = display.add_task("loading", total=total, rate="")
        tally = _Tally()
        for step in steps:
            tally.add(step)
            speed = display.tasks[0].speed
            display.update(
                task,
                completed=tally.reached,
                description=_subject(step),
                rate=_rate(speed) if speed else "",
            )
            yield step


def _rate(speed: float) -> str:
    """In images a second, or a minute where that would be less than one."""
    return f"{speed:.0f} images/s" if speed >= 1 else f"{60 * speed:.1f} images/min"
