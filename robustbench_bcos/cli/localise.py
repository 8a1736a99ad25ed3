"""``localise``: do explanations point at the right place, clean and attacked?"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from robustbench_bcos.bench.configured import configured
from robustbench_bcos.bench.folder import read_localisation
from robustbench_bcos.bench.run_files import DATABASE, check_place
from robustbench_bcos.cli.jobs import Cancel, Status, told_of_jobs
from robustbench_bcos.cli.options import Flags, OutFolder, Overwrite, Quiet, takes
from robustbench_bcos.cli.output import errors, results
from robustbench_bcos.core.disk import disk_explained
from robustbench_bcos.core.errors import Broken, Interrupted
from robustbench_bcos.localisation.config import OPTIONS, SINGLE, LocaliseConfig, check_game

if TYPE_CHECKING:
    from robustbench_bcos.bench.status import Inventory
    from robustbench_bcos.bench.store import Store
    from robustbench_bcos.localisation.playing import Played
    from robustbench_bcos.localisation.setting import Play

EXAMPLES = (
    "localise",
    "localise --cells 9 --model digits-bcos-b2,digits-natural --method auto,integrated_gradients",
    "localise --dataset cifar10 --data-dir DIR --model NAME --norm l2 --eps 0.5",
    "localise --game masks --dataset digit_pairs",
    "localise --game masks --dataset voc --data-dir DIR --mask-classes FILE --model torchvision:resnet50",
    "localise --protocol bcos-v2 --condition clean",
    "localise --executor processes",
)


@takes(
    *OPTIONS,
    table=LocaliseConfig,
    single=SINGLE,
    figures={"help": "No figures."},
    figure_format={"help": "Files of each figure: {names}."},
    limit={"help": "Make pictures of so many images, balanced over classes."},
    jobs={"help": "Jobs at the same time, with another `executor`."},
)
def localise(
    flags: Flags,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    status: Status = None,
    cancel: Cancel = None,
) -> None:
    """Score whether explanations point at the right place: in clean pictures, under attack, and under noise.

    By default grids of images of distinct classes, the same for all models. The same command continues what was
    interrupted.
    """
    if told_of_jobs(
        flags, status, cancel=cancel, others=(out, overwrite), check=read_localisation, inventory=_inventory
    ):
        return
    config = configured(LocaliseConfig, flags)
    check_game(config)
    if out is not None:
        with disk_explained(out):
            check_place(out)
    # Not above: --help needs neither cards nor datasets.
    from robustbench_bcos.bench.executors import EXECUTORS
    from robustbench_bcos.bench.foreseen import check_foreseeable

    check_foreseeable(config, attacked=config.attacked)
    EXECUTORS[config.executor].prepare("robustbench_bcos.localisation.blocks")
    try:
        # This imports torch; a mistake that can be told without it has been told.
        import torch

        from robustbench_bcos.localisation.setting import prepare

        game = prepare(config)
        torch.set_num_threads(game.threads)
        _carry_out(game, out or Path("runs") / game.folder_name, overwrite=overwrite, quiet=quiet)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; repeat the same command to continue") from None


def _inventory(folder: Path) -> "Inventory":
    from robustbench_bcos.localisation.blocks import inventory

    return inventory(folder)


def _carry_out(game: "Play", folder: Path, *, overwrite: bool, quiet: bool) -> None:
    from robustbench_bcos.bench.display import watch
    from robustbench_bcos.bench.folder import open_run
    from robustbench_bcos.bench.store import Store
    from robustbench_bcos.localisation.rows import ScoreRow

    with open_run(folder, game, game.describe(), overwrite=overwrite):
        for note in () if quiet else game.notes:
            errors.print(note, markup=False, highlight=False, soft_wrap=True)
        try:
            with Store(folder / DATABASE, kinds=[ScoreRow]) as store:
                store.verify()
                for _ in watch(_played(game, store, folder), game.work, None if quiet else errors):
                    pass
                _report(game, store, folder, quiet=quiet)
        except Broken as failure:
            raise Broken(f"{failure}, then repeat the same command, which goes on in {folder}") from failure
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; repeat the same command to continue in {folder}") from None


def _played(game: "Play", store: "Store", folder: Path) -> "Iterator[Played]":
    """By this process, or by jobs."""
    from robustbench_bcos.bench.executor import AbstractJobs
    from robustbench_bcos.bench.executors import EXECUTORS
    from robustbench_bcos.localisation.blocks import play_by_jobs
    from robustbench_bcos.localisation.playing import play

    kind = EXECUTORS[game.config.executor]
    return play_by_jobs(kind, game, store, folder) if issubclass(kind, AbstractJobs) else play(game, store)


def _report(game: "Play", store: "Store", folder: Path, *, quiet: bool) -> None:
    from robustbench_bcos.localisation.comparisons import compare_scores
    from robustbench_bcos.localisation.rows import ScoreRow
    from robustbench_bcos.localisation.summary import summarise_scores
    from robustbench_bcos.reports.localisation import (
        localisation_table,
        measures_table,
        reading_notes,
        write_localisation,
    )

    scores = store.select(ScoreRow)
    rows, differences = summarise_scores(game, scores), compare_scores(game, scores)
    config = game.setting.config
    files = write_localisation(rows, scores, differences, folder, figures=config.figures, formats=config.figure_format)
    if config.figures:
        files += _pictures(game, folder)
    if quiet:
        typer.echo(files[0])
        return
    results.print(localisation_table(rows, differences))
    if (others := measures_table(rows)) is not None:
        results.print(others)
    for note in reading_notes(rows):
        results.print(note, markup=False)
    names = [str(file.relative_to(folder)) for file in files]
    results.print(f"Written to {folder}: {', '.join(names)}", soft_wrap=True, markup=False)


def _pictures(game: "Play", folder: Path) -> list[Path]:
    """Maps over a few pictures of each model."""
    from robustbench_bcos.core.disk import made_below, slug
    from robustbench_bcos.localisation.examples import examples
    from robustbench_bcos.reports.located import located_panel
    from robustbench_bcos.reports.style import write_figure

    written: list[Path] = []
    for name in game.setting.names:
        title = f"{name}: maps over pictures of game {game.game.name}, {game.game.measures[0]} above each"
        names = () if game.setting.config.mask_classes else game.setting.subset.class_names
        figure = located_panel(list(examples(game, name)), names, title)
        home = made_below(folder, "figures")
        written += write_figure(figure, home, f"maps_{slug(name)}", game.setting.config.figure_format)
    return written
