"""``--status`` and ``--cancel``, of every verb whose work jobs carry out."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.config import RUN
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.cli.options import Flags
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from robustbench_bcos.bench.status import Inventory
    from robustbench_bcos.bench.status import Status as Standing

Status = Annotated[
    Path | None,
    typer.Option(
        "--status", metavar="DIR", help="Print what in a folder is done, submitted and missing.", rich_help_panel=RUN
    ),
]
Cancel = Annotated[
    Path | None, typer.Option("--cancel", metavar="DIR", help="End the jobs of a folder.", rich_help_panel=RUN)
]


def told_of_jobs(
    flags: Flags,
    status: Path | None,
    *,
    cancel: Path | None,
    others: Collection[object],
    check: Callable[[Path], object],
    inventory: "Callable[[Path], Inventory]",
) -> bool:
    """Do what a verb is asked about jobs; gives whether it was.

    Args:
        flags: of the verb.
        status: the folder to tell of.
        cancel: the folder whose jobs are to end.
        others: what else the verb was given.
        check: refuses a folder that is of another verb.
        inventory: counts what is in it.

    Raises:
        RequestError: the folder is refused, something else is asked for, too, or there is nothing to cancel.
    """
    folder = status or cancel
    if folder is None:
        return False
    if flags.keys() - {"plugin"} or any(others) or (status and cancel):
        raise RequestError("--status and --cancel are about a folder that there is: leave out everything else")
    make_config(flags)
    check(folder)
    # Not above: --help needs none of it.
    from robustbench_bcos.bench import status as jobs

    if cancel is not None:
        results.print(jobs.cancel(folder), markup=False, soft_wrap=True)
    else:
        _print(jobs.status_of(folder, inventory(folder)))
    return True


def _print(status: "Standing") -> None:
    from rich.table import Table
    from rich.text import Text

    found = status.inventory
    table = Table(found.part, f"{found.amount} done", "missing")
    for name, (done, missing) in found.parts.items():
        table.add_row(Text(name), str(done), "not known" if missing is None else str(missing))
    results.print(table)
    if status.units:
        table = Table("unit", "job", "state")
        for unit in status.units:
            table.add_row(*map(Text, unit))
        results.print(table)
    results.print(status.sentence, markup=False, soft_wrap=True)
