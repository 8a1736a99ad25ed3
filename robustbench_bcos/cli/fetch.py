"""``fetch``: weights and data from the web, for machines that have it, before they are needed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import errors, results
from robustbench_bcos.core.errors import Interrupted, RequestError

if TYPE_CHECKING:
    from robustbench_bcos.model_zoo.cards import Entry

BYTES_PER_PARAMETER = 4


EXAMPLES = (
    "fetch official-bcos-resnet50",
    "fetch 'madry-*' --dry-run",
    "fetch cifar10 --data-dir DIR",
)


@takes("zoo", "data_dir", "plugin")
def fetch(
    flags: Flags,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Models of the zoo, globs ('madry-*'), datasets.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")] = False,
) -> None:
    """Fetch weights into the cache, or data into --data-dir.

    The same command continues what was interrupted.
    """
    from robustbench_bcos.data import DATASETS
    from robustbench_bcos.model_zoo.cards import Zoo

    if not names:
        raise RequestError("fetch needs a name: official-bcos-resnet50, 'madry-*' or cifar10, say (`models` lists all)")
    cards, entries, folders = Zoo(flags.get("zoo", ())), dict[str, "Entry"](), dict[str, Path]()
    data_dir = flags.get("data_dir")
    for name in names:
        if name in DATASETS:
            folders[name] = _folder_for(name, data_dir)
        else:
            entries |= {entry.card.name: entry for entry in cards.matching(name)}
    if dry_run:
        _print_plan(list(entries.values()), folders)
        return
    for entry in entries.values():
        _fetch_weights(entry)
    for name, folder in folders.items():
        _fetch_dataset(name, folder)


def _folder_for(dataset: str, data_dir: Path | None) -> Path:
    from robustbench_bcos.data import DATASETS

    kind = DATASETS[dataset]
    if not kind.url:
        raise RequestError(kind.how_to_get)
    if data_dir is None:
        raise RequestError(f"fetch {dataset} needs --data-dir DIR, the folder that --data-dir of `run` will name")
    return data_dir


def _fetch_weights(entry: "Entry") -> None:
    from robustbench_bcos.model_zoo.fetching import fetch_weights

    name, was_here = entry.card.name, entry.is_here
    with _watched(name) as watch:
        digest = fetch_weights(entry, watch.report, watch.wait)
    published = "as published" if entry.card.weights.sha256 else "which is recorded, because none is published"
    state = "was here" if was_here else "fetched"
    size = decimal(entry.weights_file.stat().st_size)
    _say(f"{name} {state}: {entry.weights_file}, {size}, SHA-256 {digest}, {published}")


def _fetch_dataset(name: str, folder: Path) -> None:
    from robustbench_bcos.data import DATASETS

    with _watched(name) as watch:
        found = DATASETS[name].fetch(folder, watch.report, watch.wait)
    _say(f"{name} is in {found}; run with --dataset {name} --data-dir {folder}")


def _say(text: str) -> None:
    results.print(text, markup=False, soft_wrap=True)


class _Watch:
    """A bar on standard error, where somebody is there to watch it."""

    def __init__(self, name: str, display: Progress) -> None:
        self.name, self.display, self.done = name, display, 0
        self.task = display.add_task(name, total=None)

    def report(self, done: int, total: int | None) -> None:
        self.done = done
        self.display.update(self.task, completed=done, total=total)

    def wait(self) -> None:
        errors.print(f"another process is fetching {self.name}; waiting for it", markup=False, soft_wrap=True)


@contextmanager
def _watched(name: str) -> Iterator[_Watch]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    rest = (TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, *rest, console=errors, disable=not errors.is_terminal, transient=True) as display:
        watch = _Watch(name, display)
        try:
            yield watch
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after {watch.done:,} bytes of {name}; repeat the same command to continue"
            ) from None


def _print_plan(entries: "list[Entry]", folders: Mapping[str, Path]) -> None:
    from rich.table import Table
    from rich.text import Text

    from robustbench_bcos.data import DATASETS

    table = Table(pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("size", "from", "to"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        url = entry.card.weights.url or "beside its card"
        size = decimal(entry.weights_file.stat().st_size) + ", is here" if entry.is_here else _size(entry)
        table.add_row(entry.card.name, size, Text(url), Text(str(entry.weights_file)))
    for name, folder in folders.items():
        kind = DATASETS[name]
        table.add_row(name, "unknown", Text(kind.url), Text(str(folder / kind.data_dir_holds)))
    results.print(table)


def _size(entry: "Entry") -> str:
    weights, published = entry.card.weights, entry.card.published
    if weights.size is not None:
        return decimal(weights.size)
    # A bare state dict holds the parameters and little else; other checkpoints hold an optimiser's state, too.
    if weights.format == "state_dict" and published is not None and published.parameters is not None:
        return f"about {decimal(int(published.parameters * 1e6 * BYTES_PER_PARAMETER))}"
    return "unknown"
