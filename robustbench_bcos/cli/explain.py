"""``explain``: show why a model decides what it decides, with or without an attack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_bcos.cli.listed import LIST, indices, pairs
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
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from robustbench_bcos.bench.cells import Cell
    from robustbench_bcos.bench.config import RunConfig
    from robustbench_bcos.bench.gallery import ExplainedGallery, Gallery
    from robustbench_bcos.cli.chosen import Chosen
    from robustbench_bcos.data.image_files import Frames
    from robustbench_bcos.model_zoo.models import Model, ModelSource

EXPLANATION, ATTACK = "The explanation", "The attack"


def explain(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="8-bit RGB images; or one GIF, or one folder of frames."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="As for run: zoo name, torchvision:resnet50, module:callable, ...", rich_help_panel=MODELS),
    ] = None,
    weights: Weights = None,
    architecture: Architecture = None,
    encoding: Encoding = None,
    argument: Argument = None,
    ema: Ema = False,
    zoo: Zoo = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Explain images of a dataset as for run, which --images names.",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: DataDir = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    image_list: ImageList = None,
    images: Annotated[
        list[str] | None, typer.Option(help=f"Indices of the dataset: 3,14,15. {LIST}", rich_help_panel=DATA)
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="auto (dynamic_weights for B-cos, input_x_gradient for others), integrated_gradients, gradcam, "
            "deeplift, lime.",
            rich_help_panel=EXPLANATION,
        ),
    ] = "auto",
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to explain, by number or name; by default the one predicted.", rich_help_panel=EXPLANATION
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="l2 or linf.", rich_help_panel=ATTACK)] = None,
    eps: Annotated[
        str | None, typer.Option(help="Attack within this radius: 0.5, 8/255.", rich_help_panel=ATTACK)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="PGD steps, by default 20.", rich_help_panel=ATTACK)] = None,
    loss: Annotated[str | None, typer.Option(help="auto, bce, ce, margin, dlr.", rich_help_panel=ATTACK)] = None,
    restarts: Annotated[int | None, typer.Option(help="Runs of the attack.", rich_help_panel=ATTACK)] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("explanations"),
) -> None:
    """Show why a model decides what it decides, with or without an attack.

    Writes panels, a picture of each explanation, and all arrays as maps.npz; for a moving picture an animation beside
    its explanation, and how steady the explanation is.
    """
    flags = {
        "model": () if model is None else (model,),
        "weights": weights,
        "architecture": architecture,
        "encoding": encoding,
        "argument": pairs(argument),
        "ema": ema or None,
        "zoo": tuple(zoo or ()),
        "dataset": dataset,
        "data_dir": data_dir,
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "image_list": image_list,
        "explanation": method,
        "norm": None if norm is None else (norm,),
        "eps": None if eps is None else (eps,),
        "steps": None if steps is None else (steps,),
        "loss": None if loss is None else (loss,),
        "restarts": None if restarts is None else (restarts,),
    }
    _check_request(flags, files, images)
    from robustbench_bcos.bench.config import make_config

    config = make_config(flags)
    attacked = eps is not None
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.bench.gallery import Gallery
    from robustbench_bcos.cli.chosen import from_dataset, from_files
    from robustbench_bcos.explanations.explanation import method_for

    source = _source(config)
    loaded = source.load()
    if dataset:
        chosen = from_dataset(config, source, loaded, indices("--images", images))
    else:
        chosen = from_files(config, source, loaded, files or [], attacked=attacked)
    class_names = chosen.class_names
    gallery = Gallery(
        model=loaded,
        images=chosen.images,
        indices=chosen.indices,
        labels=chosen.labels,
        method=method,
        target=None if target is None else _class(target, class_names),
        cell=_cell(config, loaded, chosen) if attacked else None,
        seed=seed,
    )
    if chosen.frames is not None:
        _show_moving(gallery, chosen.frames, class_names, out)
    else:
        title = f"{loaded.name} · {method_for(loaded.classifier, method)}"
        title += f" of class {class_names[gallery.target]}" if gallery.target is not None else ""
        title += f" · {config.norm[0]} {eps}, {config.steps[0]} steps" if attacked else ""
        _show(gallery.explain(), chosen.names, class_names, out, title)


def _check_request(flags: dict[str, Any], files: list[Path] | None, images: list[str] | None) -> None:
    if not flags["model"] and flags["weights"] is None:
        raise RequestError("explain needs a model: give --model NAME, or --weights FILE with --architecture NAME")
    if flags["model"] and flags["weights"] is not None:
        raise RequestError("--model and --weights name two models: explain one at a time")
    if bool(files) == bool(flags["dataset"]):
        raise RequestError("explain needs images: give image files, or --dataset NAME with --images 3,14,15")
    if bool(flags["dataset"]) != bool(images):
        raise RequestError("--dataset and --images belong together: give both, or image files instead")
    if flags["image_list"] is not None and files:
        raise RequestError("--image-list names images of a dataset: give --dataset instead of image files")
    for name in ("norm", "steps", "loss", "restarts"):
        if flags[name] is not None and flags["eps"] is None:
            raise RequestError(f"--{name} describes an attack: give its radius with --eps, or leave it out")


def _source(config: "RunConfig") -> "ModelSource":
    from robustbench_bcos.bench.plan import find_sources

    sources = find_sources(config)
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources[:3])
        raise RequestError(
            f"--model {config.model[0]} names {len(sources)} models ({names}, ...): explain one at a time"
        )
    return sources[0]


def _class(asked: str, names: list[str]) -> int:
    if asked in names:
        return names.index(asked)
    if asked.isascii() and asked.isdigit() and int(asked) < len(names):
        return int(asked)
    from robustbench_bcos.core.registry import unknown

    raise unknown("class", asked, names)


def _cell(config: "RunConfig", model: "Model", chosen: "Chosen") -> "Cell":
    from robustbench_bcos.attacks.norms import NORMS
    from robustbench_bcos.bench.cells import check_radius, make_cells

    cell = make_cells(config, [model.name])[0]
    check_radius(cell.radius, cell.norm, NORMS[cell.norm].diameter(tuple(chosen.images.shape[1:])))
    return cell


def _show(explained: "ExplainedGallery", names: list[str], class_names: list[str], out: Path, title: str) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from robustbench_bcos.reports.gallery import write_gallery

    written = write_gallery(explained, names, class_names, out, title)
    results.print(title, markup=False)
    headings = ("image", "class", "predicted", "attacked")
    table = Table(*(Column(heading, overflow="fold") for heading in headings), pad_edge=False)
    for name, picture in zip(names, explained.pictures, strict=True):
        answers = [
            "" if view is None else f"{class_names[view.prediction]} ({view.confidence:.0%})"
            for view in (picture.clean, picture.attacked)
        ]
        label = "" if picture.label is None else class_names[picture.label]
        table.add_row(*(Text(part) for part in (name, label, *answers)))
    results.print(table)
    results.print(f"Written to {out}: {len(written)} files, maps.npz with all arrays", soft_wrap=True, markup=False)


def _show_moving(gallery: "Gallery", frames: "Frames", class_names: list[str], out: Path) -> None:
    from dataclasses import replace

    import torch

    from robustbench_bcos.core.disk import made
    from robustbench_bcos.explanations.stability import stability
    from robustbench_bcos.reports.gallery import write_maps, write_moving

    if gallery.target is None:
        # One class for all frames: maps of different classes are not comparable.
        with torch.no_grad():
            gallery = replace(gallery, target=int(gallery.model.classifier(frames.images).mean(dim=0).argmax()))
    explained = gallery.explain()
    made(out)
    files = [write_moving(explained.pictures, frames, out), *write_maps(explained, out)]
    steady = stability(frames.images, torch.from_numpy(explained.arrays["contributions"]))
    results.print(f"{len(frames.images)} frames, class {class_names[gallery.target or 0]}", markup=False)
    results.print(
        f"stability of maps {steady.maps:.3f}, of frames {steady.frames:.3f} (mean correlation of neighbours)"
    )
    results.print(f"Written to {out}: {', '.join(file.name for file in files)}", soft_wrap=True, markup=False)
