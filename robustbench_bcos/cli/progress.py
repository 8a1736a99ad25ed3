"""How a run goes on: a live display where somebody watches, and a line now and then where it goes to a file."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from robustbench_bcos.cli.output import errors

if TYPE_CHECKING:
    from robustbench_bcos.bench.progress import Progress


EVERY = 10
"""Seconds between two lines."""


def watch(steps: Iterable["Progress"], total: int, *, show: bool) -> Iterator["Progress"]:
    """Pass progress through, showing it on the way.

    Args:
        steps: what the runner tells.
        total: images of all cells of all models.
        show: whether it was not asked to be quiet.
    """
    if not show:
        return iter(steps)
    return _displayed(steps, total) if errors.is_terminal else in_lines(steps, total)


def in_lines(
    steps: Iterable["Progress"], total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator["Progress"]:
    """Pass progress through and print a line at its beginning, one every ten seconds, and one at its end."""
    began = clock()
    done, told = 0, float("-inf")
    for step in steps:
        done += step.images
        now = clock()
        if now - told >= EVERY or done == total:
            told, left = now, ""
            if 0 < done < total:
                left = f", {timedelta(seconds=round((now - began) / done * (total - done)))} left"
            line = f"{done} of {total} images{left}: {_subject(step)}"
            errors.print(line, markup=False, highlight=False, soft_wrap=True)
        yield step


def _subject(step: "Progress") -> str:
    return f"{step.cell.model} {step.cell.threat} {step.cell.attack.name}"


def _displayed(steps: Iterable["Progress"], total: int) -> Iterator["Progress"]:
    display = Display(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
    )
    with display:
        task = display.add_task("loading", total=total, rate="")
        for step in steps:
            speed = display.tasks[0].speed
            display.update(
                task,
                advance=step.images,
                description=_subject(step),
                rate=f"{speed:.0f} images/s" if speed else "",
            )
            yield step
