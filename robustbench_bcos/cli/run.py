"""``run``: attack models and report which images stay robust."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.config import ATTACK, RUN, RunConfig
from robustbench_bcos.bench.configured import check_trained, make_config
from robustbench_bcos.bench.folder import read_description
from robustbench_bcos.bench.run_files import DATABASE, RESULTS, check_place
from robustbench_bcos.cli.jobs import Cancel, Status, told_of_jobs
from robustbench_bcos.cli.options import Flags, OutFolder, Overwrite, Quiet, takes
from robustbench_bcos.cli.output import errors, print_report, results
from robustbench_bcos.core.disk import disk_explained, made_below
from robustbench_bcos.core.errors import Broken, Interrupted, named_reason_of
from robustbench_bcos.core.text import counted

if TYPE_CHECKING:
    from robustbench_bcos.bench.request import Request
    from robustbench_bcos.bench.status import Inventory
    from robustbench_bcos.bench.store import Store
    from robustbench_bcos.reports.run_folder import RunFolder

EXAMPLES = (
    "run --limit 100",
    "run --threat l2:0.5,linf:8/255 --steps 100 --model 'digits-*'",
    "run --model my_package.nets:make --dataset folder:DIR --norm linf --eps 4/255",
    "run --weights FILE --architecture resnet56 --dataset cifar10 --data-dir DIR --norm linf --eps 8/255",
    "run --suite smoke --dry-run",
    "run --suite tables --executor slurm --slurm partition=gpu,gres=gpu:1 --out RUN",
    "run --status RUN",
)


@takes()
def run(
    flags: Flags,
    suite: Annotated[
        str | None,
        typer.Option(help="A named grid (see `suites`) or a TOML file; flags override it.", rich_help_panel=ATTACK),
    ] = None,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the cells.", rich_help_panel=RUN)
    ] = False,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.", rich_help_panel=RUN)] = False,
    status: Status = None,
    cancel: Cancel = None,
) -> None:
    """Attack models and report which images stay robust.

    The same command continues a run that was interrupted.
    """
    if told_of_jobs(
        flags,
        status,
        cancel=cancel,
        others=(suite, out, overwrite, dry_run),
        check=read_description,
        inventory=_inventory,
    ):
        return
    config = make_config(flags, suite)
    if suite is not None:
        check_trained(config, suite)
    if out is not None:
        with disk_explained(out):
            check_place(out)
    try:
        request = _plan(config, prepared=not dry_run)
        if dry_run:
            _print_assumed(config)
            _print_cells(request)
            return
        folder = out or Path("runs") / request.folder_name
        finished, files = _carry_out(request, folder, overwrite=overwrite, show=not quiet and not as_json)
        if not (quiet or as_json):
            _print_assumed(config)
        _print_results(finished, files, quiet=quiet, as_json=as_json)
        _log(finished, files, config.log)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; repeat the same command to continue") from None


def _plan(config: RunConfig, *, prepared: bool) -> "Request":
    # Not above: --help needs neither cards nor datasets.
    from robustbench_bcos.bench.executors import EXECUTORS
    from robustbench_bcos.bench.foreseen import check_foreseeable

    check_foreseeable(config)
    if prepared:
        EXECUTORS[config.executor].prepare("robustbench_bcos.bench.run_job")
    # This imports torch; a mistake that can be told without it has been told.
    import torch

    from robustbench_bcos.bench.request import make_request

    request = make_request(config)
    torch.set_num_threads(request.threads)
    return request


def _inventory(folder: Path) -> "Inventory":
    from robustbench_bcos.bench.status import inventory

    return inventory(folder)


def _print_assumed(config: RunConfig) -> None:
    if not (config.threat or config.eps):
        assumed = ", ".join(f"{norm} {eps}" for norm, eps in config.threats)
        results.print(f"Without --eps, as usual for {config.dataset}: {assumed}", markup=False)


def _carry_out(request: "Request", folder: Path, *, overwrite: bool, show: bool) -> "tuple[RunFolder, list[Path]]":
    from robustbench_bcos.bench.display import watch
    from robustbench_bcos.bench.executors import EXECUTORS
    from robustbench_bcos.bench.folder import open_run
    from robustbench_bcos.bench.schedule import Schedule
    from robustbench_bcos.bench.store import Store

    work = Schedule(request=request).work
    with open_run(folder, request.identity, request.describe(), overwrite=overwrite):
        done, stage = 0, ""
        for note in request.notes if show else ():
            errors.print(note, markup=False, highlight=False, soft_wrap=True)
        try:
            with Store(folder / DATABASE) as store:
                store.verify()
                steps = EXECUTORS[request.config.executor].execute(request, store, folder)
                for progress in watch(steps, work, errors if show else None):
                    done += progress.images
                    stage = f" and in {progress.stage}" if progress.stage else ""
                saved = _save_adversarials(request, store, folder) if request.config.save_adversarials else []
        except Broken as failure:
            raise Broken(f"{failure}, then repeat the same command, which goes on in {folder}") from failure
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after {done} of {work} images{stage}; repeat the same command to continue in {folder}"
            ) from None
        # What reads and draws a run is imported when there is something to read.
        from robustbench_bcos.reports.report import write_report
        from robustbench_bcos.reports.run_folder import read_run

        finished = read_run(folder)
        config = request.config
        files = write_report(finished, figures=config.figures, images=config.images, formats=config.figure_format)
        return finished, [*files, *saved]


def _save_adversarials(request: "Request", store: "Store", folder: Path) -> list[Path]:
    """The folder that holds them."""
    from robustbench_bcos.bench.saving import FOLDER, save_adversarials

    saved = made_below(folder, FOLDER)
    save_adversarials(request, store, saved)
    return [saved]


def _log(finished: "RunFolder", files: list[Path], trackers: Sequence[str]) -> None:
    """Send a run to trackers; if that fails, the run itself is complete all the same."""
    from robustbench_bcos.bench.trackers import TRACKERS
    from robustbench_bcos.reports.logged import logged

    for name in trackers:
        try:
            TRACKERS[name].log(logged(finished, files))
        except Exception as error:
            raise Broken(
                f"the run is complete in {finished.folder}, and {name} did not take it ({named_reason_of(error)}): "
                "repeat the same command to send it again"
            ) from error


def _print_results(finished: "RunFolder", files: list[Path], *, quiet: bool, as_json: bool) -> None:
    csv = finished.folder / RESULTS
    if as_json:
        records = finished.records.astype(object)
        rows = records.where(records.notna(), None).to_dict(orient="records")
        typer.echo(json.dumps({"run": str(finished.folder), "records": rows}, indent=2, allow_nan=False))
    elif quiet:
        typer.echo(csv)
    else:
        print_report(finished, files)


def _print_cells(request: "Request") -> None:
    from rich.table import Table
    from rich.text import Text

    from robustbench_bcos.bench.schedule import Schedule

    # The digest reads every image once: a broken one is found now, too.
    subset, dataset = request.subset, request.subset.dataset
    framed = f" ({dataset.preprocessing})" if str(dataset.preprocessing) else ""
    images = f"{counted(len(subset), 'image')} of {dataset.name}{framed}, subset {subset.digest[:12]}"
    table = Table("cell", "images", "passes at most", title=counted(len(request.cells), "cell"), title_justify="left")
    for cell in request.cells:
        table.add_row(Text(cell.key), str(len(subset)), f"{cell.attack.passes * len(subset):,}")
    results.print(table)
    results.print(images, markup=False)
    for note in request.notes:
        results.print(note, markup=False)
    if request.explained is not None:
        results.print(f"{len(request.explained)} of them explained, and attacked once more in full for it")
    passes = Schedule(request=request).passes
    results.print(f"At most {passes:,} forward and backward passes of one image; images that break early need fewer.")
