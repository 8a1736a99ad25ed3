"""``run``: attack models and say what survived."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.cli.listed import LIST, indices, pairs, split
from robustbench_bcos.cli.options import (
    DATA,
    MODELS,
    Architecture,
    Argument,
    Crop,
    DataDir,
    Ema,
    Encoding,
    ImageList,
    Interpolation,
    Resize,
    Weights,
    Zoo,
)
from robustbench_bcos.cli.output import errors, print_report, results
from robustbench_bcos.core.errors import Interrupted
from robustbench_bcos.data.opening import datasets_help

if TYPE_CHECKING:
    from robustbench_bcos.bench.config import RunConfig
    from robustbench_bcos.bench.plan import Plan
    from robustbench_bcos.reports.run_folder import RunFolder

Listed = list[str] | None

ATTACK, EXPLANATIONS, RUN = "The attack", "The explanations", "The run"


def run(
    norm: Annotated[Listed, typer.Option(help=f"l2 or linf. {LIST}", rich_help_panel=ATTACK)] = None,
    eps: Annotated[
        Listed, typer.Option(help=f"Quantity in units of the pixel range: 0.5, 8/255. {LIST}", rich_help_panel=ATTACK)
    ] = None,
    steps: Annotated[Listed, typer.Option(help=f"PGD steps. {LIST}", rich_help_panel=ATTACK)] = None,
    step_size: Annotated[
        str | None,
        typer.Option(help="In units of the pixel range; by default 2.5 * eps / steps.", rich_help_panel=ATTACK),
    ] = None,
    loss: Annotated[
        Listed,
        typer.Option(
            help=f"auto (the loss on the model's card), bce, ce, margin, dlr, targeted_dlr. {LIST}",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    restarts: Annotated[
        Listed, typer.Option(help=f"Runs per image; further ones start at random. {LIST}", rich_help_panel=ATTACK)
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Where the first run starts: image or random.", rich_help_panel=ATTACK)
    ] = None,
    count: Annotated[
        str | None,
        typer.Option(help="Which iterate counts: any that is misclassified, last, best-loss.", rich_help_panel=ATTACK),
    ] = None,
    attack: Annotated[
        Listed,
        typer.Option(
            help="pgd, apgd (finds its own step size), square (asks for no gradients), fab, "
            f"autoattack (the three before it), noise. {LIST}",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Of square, per image; by default 5000.", rich_help_panel=ATTACK)
    ] = None,
    targets: Annotated[
        int | None,
        typer.Option(help="Classes that fab and targeted_dlr aim at; by default 9.", rich_help_panel=ATTACK),
    ] = None,
    evidence: Annotated[
        str | None,
        typer.Option(
            help="Checks of each number: quick (the default, costs at most as much as the attack), full, off.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    independent_cells: Annotated[
        bool,
        typer.Option(
            "--independent-cells",
            help="Attack what fell within a smaller radius, or in fewer steps, again in every other cell.",
            rich_help_panel=ATTACK,
        ),
    ] = False,
    distances: Annotated[
        bool, typer.Option("--distances", help="Also find the smallest epsilon that fools.", rich_help_panel=ATTACK)
    ] = False,
    space: Annotated[
        str | None,
        typer.Option(
            help="image, or encoded: only to reproduce old numbers, no picture looks like it.", rich_help_panel=ATTACK
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="A named grid (see `suites`) or a TOML file; flags override it.", rich_help_panel=ATTACK),
    ] = None,
    model: Annotated[
        Listed,
        typer.Option(
            help="Zoo name, glob, torchvision:resnet50, timm:NAME, robustbench:ID, or module:callable; by default the "
            f"dataset's zoo. {LIST}",
            rich_help_panel=MODELS,
        ),
    ] = None,
    weights: Weights = None,
    architecture: Architecture = None,
    encoding: Encoding = None,
    argument: Argument = None,
    ema: Ema = False,
    zoo: Zoo = None,
    skip_model_checks: Annotated[
        bool,
        typer.Option(
            "--skip-model-checks",
            help="Also attack models that are refused for what they answer.",
            rich_help_panel=MODELS,
        ),
    ] = False,
    dataset: Annotated[str | None, typer.Option(help=f"{datasets_help()}.", rich_help_panel=DATA)] = None,
    data_dir: DataDir = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch the dataset if it is not there.", rich_help_panel=DATA),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Use so many images, balanced over classes.", rich_help_panel=DATA)
    ] = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    image_list: ImageList = None,
    explained: Annotated[
        int | None,
        typer.Option(
            help="Images whose explanations are compared: the first so many; 50 with figures, 0 without.",
            rich_help_panel=EXPLANATIONS,
        ),
    ] = None,
    explanation: Annotated[
        str | None,
        typer.Option(
            help="auto (dynamic_weights for B-cos, input_x_gradient for others), integrated_gradients, gradcam, "
            "deeplift, lime.",
            rich_help_panel=EXPLANATIONS,
        ),
    ] = None,
    images: Annotated[
        Listed,
        typer.Option(help=f"Dataset indices of the images to picture: 3,14,15. {LIST}", rich_help_panel=EXPLANATIONS),
    ] = None,
    no_figures: Annotated[
        bool,
        typer.Option(
            "--no-figures",
            help="No pictures and no page, and nothing explained unless --explained says so.",
            rich_help_panel=EXPLANATIONS,
        ),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images attacked together; by default as many as fit, 256 at most.", rich_help_panel=RUN),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.", rich_help_panel=RUN)] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default one for small images.", rich_help_panel=RUN)
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Models attacked at the same time; by default one a core for small images.", rich_help_panel=RUN
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Attack compiled networks; slow to start.", rich_help_panel=RUN)
    ] = False,
    memory_format: Annotated[
        str | None,
        typer.Option(help="Of attacked networks: auto, contiguous, channels_last.", rich_help_panel=RUN),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of attacked networks: fp32 (the default), tf32, bf16; verdicts are always in fp32.",
            rich_help_panel=RUN,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of random starts and noise.", rich_help_panel=RUN)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; an unfinished one is continued.", rich_help_panel=RUN)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the cells.", rich_help_panel=RUN)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print the path of the CSV alone.", rich_help_panel=RUN)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.", rich_help_panel=RUN)] = False,
) -> None:
    """Attack models and say what survived.

    The same command continues a run that was interrupted.
    """
    flags = {
        "norm": split("--norm", norm),
        "eps": split("--eps", eps),
        "steps": split("--steps", steps),
        "step_size": step_size,
        "loss": split("--loss", loss),
        "restarts": split("--restarts", restarts),
        "start": start,
        "count": count,
        "attack": split("--attack", attack),
        "queries": queries,
        "targets": targets,
        "space": space,
        "evidence": evidence,
        "independent_cells": independent_cells or None,
        "distances": distances or None,
        "model": split("--model", model),
        "weights": weights,
        "architecture": architecture,
        "encoding": encoding,
        "argument": pairs(argument),
        "ema": ema or None,
        "zoo": tuple(zoo or ()),
        "skip_model_checks": skip_model_checks or None,
        "dataset": dataset,
        "data_dir": data_dir,
        "download": download or None,
        "limit": limit,
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "image_list": image_list,
        "explained": explained,
        "explanation": explanation,
        "images": indices("--images", images),
        "figures": not no_figures,
        "batch_size": batch_size,
        "device": device,
        "threads": threads,
        "jobs": jobs,
        "compile": compiled or None,
        "memory_format": memory_format,
        "precision": precision,
        "seed": seed,
    }
    from robustbench_bcos.bench.config import check_trained, make_config

    config = make_config(flags, suite)
    if suite is not None:
        check_trained(config, suite)
    try:
        _plan_and_carry_out(config, out, dry_run=dry_run, quiet=quiet, as_json=as_json)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; repeat the same command to continue") from None


def _plan_and_carry_out(config: "RunConfig", out: Path | None, *, dry_run: bool, quiet: bool, as_json: bool) -> None:
    # This imports torch; a mistake that can be told without it has been told.
    import torch

    from robustbench_bcos.bench.plan import make_plan

    plan = make_plan(config)
    if dry_run:
        _print_cells(plan)
        return
    torch.set_num_threads(plan.threads)
    folder = out or Path("runs") / plan.folder_name
    show = errors.is_terminal and not quiet and not as_json
    finished, files = _carry_out(plan, folder, show)
    _print_results(finished, files, quiet=quiet, as_json=as_json)


def _carry_out(plan: "Plan", folder: Path, show: bool) -> "tuple[RunFolder, list[Path]]":
    from robustbench_bcos.bench.folder import DATABASE, open_run
    from robustbench_bcos.bench.runner import execute
    from robustbench_bcos.bench.store import Store
    from robustbench_bcos.cli.progress import watch
    from robustbench_bcos.reports.report import write_report
    from robustbench_bcos.reports.run_folder import read_run

    with open_run(folder, plan.identity, plan.describe()):
        done = 0
        try:
            with Store(folder / DATABASE) as store:
                for progress in watch(execute(plan, store), plan.work, show=show):
                    done += progress.images
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after {done} of {plan.work} images; repeat the same command to continue in {folder}"
            ) from None
        finished = read_run(folder)
        return finished, write_report(finished, figures=plan.config.figures, images=plan.config.images)


def _print_results(finished: "RunFolder", files: list[Path], *, quiet: bool, as_json: bool) -> None:
    csv = finished.folder / "results.csv"
    if as_json:
        records = finished.records.astype(object)
        rows = records.where(records.notna(), None).to_dict(orient="records")
        typer.echo(json.dumps({"run": str(finished.folder), "records": rows}, indent=2, allow_nan=False))
    elif quiet:
        typer.echo(csv)
    else:
        print_report(finished, files)


def _print_cells(plan: "Plan") -> None:
    from rich.table import Table
    from rich.text import Text

    # The digest reads every image once: a broken one is found now, too.
    dataset = plan.images.dataset
    framed = f" ({dataset.preprocessing})" if str(dataset.preprocessing) else ""
    images = f"{len(plan.images)} images of {dataset.name}{framed}, slice {plan.images.digest[:12]}"
    table = Table("cell", "images", "passes at most", title=f"{len(plan.cells)} cells", title_justify="left")
    for cell in plan.cells:
        table.add_row(Text(cell.key), str(len(plan.images)), f"{cell.passes * len(plan.images):,}")
    results.print(table)
    results.print(images, markup=False)
    if plan.explained is not None:
        results.print(f"{len(plan.explained)} of them explained, and attacked once more in full for it")
    results.print(
        f"At most {plan.passes:,} forward and backward passes of one image; images that fall early need fewer."
    )
