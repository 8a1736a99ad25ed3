"""The live display of a run: models, cells, images, rate and time left."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from robustbench_bcos.cli.output import errors

if TYPE_CHECKING:
    from robustbench_bcos.bench.progress import Progress


def watch(steps: Iterable["Progress"], total: int, *, show: bool) -> Iterator["Progress"]:
    """Pass progress through, showing it on the way.

    Args:
        steps: what the runner tells.
        total: images of all cells of all models.
        show: whether anybody is there to watch.
    """
    display = Display(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=errors,
        disable=not show,
        transient=True,
    )
    with display:
        task = display.add_task("loading", total=total, rate="")
        for step in steps:
            speed = display.tasks[0].speed
            display.update(
                task,
                advance=step.images,
                description=f"{step.cell.model} {step.cell.threat} {step.cell.attack.name}",
                rate=f"{speed:.0f} images/s" if speed else "",
            )
            yield step
