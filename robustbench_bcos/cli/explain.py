"""``explain``: show why a model decides what it decides, with or without an attack."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.config import EXPLANATIONS, IMAGES, RunConfig
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.run_files import check_free, remove_explanations
from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import errors, results
from robustbench_bcos.core.disk import emptied, slug
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.text import counted
from robustbench_bcos.explanations import contrast_named

if TYPE_CHECKING:
    from robustbench_bcos.bench.cells import Cell
    from robustbench_bcos.bench.gallery import ExplainedGallery, Gallery
    from robustbench_bcos.cli.chosen import Chosen
    from robustbench_bcos.data.image_files import Frames
    from robustbench_bcos.model_zoo.cards import Card
    from robustbench_bcos.model_zoo.models import Model, ModelSource


EXAMPLES = (
    "explain three.png eight.png --model digits-bcos-b2",
    "explain --dataset digits --images 3,14,15 --model digits-bcos-b2 --eps 0.5",
    "explain three.png --model digits-bcos-b2,digits-natural",
    "explain cat.jpg --model official-bcos-resnet50 --target tabby --out cat",
    "explain pets.jpg --model clip:RN50 --text 'a photo of a dog' --text 'a photo of a cat'",
    "explain cat.jpg --model official-bcos-resnet50 --contrast runner_up",
)


@takes(
    *("model", "weights", "architecture", "encoding", "argument", "ema", "zoo"),
    *("dataset", "data_dir", "resize", "crop", "interpolation", "image_list", "channels"),
    *("classes", "templates", "images"),
    *("explanation", "figure_format", "norm", "eps", "threat", "steps", "loss", "restarts", "seed", "plugin"),
    single=("norm", "eps", "threat", "steps", "loss", "restarts"),
    model={"default": None, "help": "Zoo name, or what `run` takes; several are put side by side."},
    dataset={"help": "Explain images of this dataset, which `images` names: {names}.", "default": None},
    images={"help": "Indices of the dataset: 3,14,15.", "panel": IMAGES, "default": None},
    explanation={"flag": "--method"},
    eps={"help": "Attack within this radius: 0.5, 8/255.", "default": None},
    threat={"help": "Attack within NORM:EPS, in place of `norm` and `eps`: linf:8/255."},
    figure_format={"help": "Files of each panel: {names}."},
)
def explain(
    flags: Flags,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Images; or one GIF, or one folder of frames."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to explain, by number or name; by default the one predicted.", rich_help_panel=EXPLANATIONS
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="A text that a vision-language model compares the images with; give several, and each has its map.",
            rich_help_panel=EXPLANATIONS,
        ),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            help="Explain by how much the class is above another: runner_up, the best of the others, or the mean of "
            "all.",
            rich_help_panel=EXPLANATIONS,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to, which is empty.")] = Path("explanations"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the explanations that are in the folder first.")
    ] = False,
) -> None:
    """Show why a model decides what it decides, with or without an attack.

    Writes panels, a picture of each explanation, and all arrays as maps.npz; for a moving picture an animation beside
    its explanation, and how steady the explanation is.
    """
    _check_request(flags, files)
    # Not above: --help needs neither cards nor datasets.
    from robustbench_bcos.bench.foreseen import check_foreseeable, check_models
    from robustbench_bcos.data.decoding import check_picture

    config = make_config(flags)
    attacked = _attacked(flags)
    contrast = None if contrast is None else contrast_named(contrast)
    if "dataset" in flags:
        check_foreseeable(config, attacked=attacked)
    else:
        check_models(config)
        for file in files or []:
            check_picture(file)
    _check_classes(config, target, text, flags.get("dataset"))
    check_free(out, overwrite=overwrite)
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.bench.request import find_sources

    sources = [source.for_texts(text) if text else source for source in find_sources(config)]
    explanations = [
        _Explanation.of(
            config, source, files=files or [], target=target, texts=text or [], contrast=contrast, attacked=attacked
        )
        for source in sources
    ]
    for note in dict.fromkeys(note for one in explanations for note in one.chosen.notes):
        errors.print(note, markup=False, highlight=False, soft_wrap=True)
    if overwrite and out.is_dir():
        emptied(out)
    if len(explanations) > 1 and any(one.chosen.frames is not None for one in explanations):
        raise RequestError("a moving picture is explained for one model: choose one with --model")
    try:
        _show_all(explanations, out)
    except BaseException:
        # A part of them would be in the way of the same command, and look like all of them.
        with suppress(OSError):
            remove_explanations(out)
        raise


def _show_all(explanations: "Sequence[_Explanation]", out: Path) -> None:
    if len(explanations) == 1:
        explanations[0].show(out)
    else:
        _show_side_by_side(explanations, out)


@dataclass(frozen=True, kw_only=True)
class _Explanation:
    """What one model is asked."""

    config: RunConfig
    chosen: "Chosen"
    gallery: "Gallery"
    title: str

    @classmethod
    def of(
        cls,
        config: RunConfig,
        source: "ModelSource",
        *,
        files: Sequence[Path],
        target: str | None,
        texts: Sequence[str],
        contrast: str | None,
        attacked: bool,
    ) -> "_Explanation":
        from robustbench_bcos.bench.gallery import Gallery
        from robustbench_bcos.bench.images import open_images
        from robustbench_bcos.cli.chosen import from_dataset, from_files
        from robustbench_bcos.explanations.explanation import method_for

        opened = None if files else open_images(config, [source])
        # Texts that nobody has stated are the names of the dataset's classes.
        source = source if opened is None else source.for_classes(opened.class_names)
        loaded = source.load()
        if opened is None:
            chosen = from_files(config, source, loaded, files, attacked=attacked)
        else:
            chosen = from_dataset(opened, source, loaded, config.images)
        targets: tuple[int, ...] = () if target is None else (_class(target, chosen.class_names),)
        if texts and not targets and chosen.frames is None:
            targets, chosen = tuple(range(len(texts))), chosen.for_each(texts)
        gallery = Gallery(
            model=loaded,
            images=chosen.images,
            indices=chosen.indices,
            labels=chosen.labels,
            method=config.explanation,
            targets=targets,
            contrast=contrast,
            cell=_cell(config, loaded, chosen) if attacked else None,
            seed=config.seed,
        )
        title = f"{loaded.name} · {method_for(loaded.classifier, config.explanation)}"
        title += f" of class {chosen.class_names[targets[0]]}" if len(targets) == 1 else ""
        title += f" · contrast {contrast}" if contrast is not None else ""
        title += _attack_text(config) if attacked else ""
        return cls(config=config, chosen=chosen, gallery=gallery, title=title)

    def show(self, out: Path) -> None:
        if self.chosen.frames is not None:
            _show_moving(self.gallery, self.chosen.frames, self.chosen.class_names, out)
            return
        self.print_and_write(self.gallery.explain(), out)

    def print_and_write(self, explained: "ExplainedGallery", out: Path) -> None:
        chosen = self.chosen
        _show(
            explained,
            chosen.names,
            class_names=chosen.class_names,
            out=out,
            title=self.title,
            formats=self.config.figure_format,
            heads=chosen.heads,
        )


def _show_side_by_side(explanations: Sequence[_Explanation], out: Path) -> None:
    from robustbench_bcos.reports.gallery import write_side_by_side

    found = {one.gallery.model.name: one.gallery.explain() for one in explanations}
    for one in explanations:
        name = one.gallery.model.name
        one.print_and_write(found[name], out / slug(name))
    config = explanations[0].config
    attack = _attack_text(config) if explanations[0].gallery.cell else ""
    files = write_side_by_side(
        {name: explained.pictures for name, explained in found.items()},
        {one.gallery.model.name: one.chosen.class_names for one in explanations},
        folder=out,
        title=f"{len(found)} models{attack}",
        formats=config.figure_format,
        heads=explanations[0].chosen.heads,
    )
    results.print(f"Side by side in {out}: {', '.join(file.name for file in files)}", soft_wrap=True, markup=False)


def _check_request(flags: Flags, files: list[Path] | None) -> None:
    if "model" not in flags and "weights" not in flags:
        raise RequestError("explain needs a model: give --model NAME, or --weights FILE with --architecture NAME")
    if "model" in flags and "weights" in flags:
        raise RequestError("--model and --weights name two models: explain one at a time")
    if bool(files) == ("dataset" in flags):
        raise RequestError("explain needs images: give image files, or --dataset NAME with --images 3,14,15")
    if ("dataset" in flags) != ("images" in flags):
        raise RequestError("--dataset and --images belong together: give both, or image files instead")
    if "image_list" in flags and files:
        raise RequestError("--image-list names images of a dataset: give --dataset instead of image files")
    for name in ("norm", "steps", "loss", "restarts"):
        if name in flags and not _attacked(flags):
            raise RequestError(f"--{name} describes an attack: give its radius with --eps, or leave it out")


def _check_classes(config: RunConfig, target: str | None, text: list[str] | None, dataset: str | None) -> None:
    """Refuse texts and a class that a model cannot have, as far as its card or the dataset says."""
    from robustbench_bcos.model_zoo import CLIP
    from robustbench_bcos.model_zoo.cards import Zoo
    from robustbench_bcos.model_zoo.foreign import knows_no_texts
    from robustbench_bcos.model_zoo.prompts import PLACE, Prompts

    zoo = Zoo(config.zoo)
    for model in config.model:
        prefix, colon, _ = model.partition(":")
        if colon and prefix != CLIP and text:
            raise knows_no_texts(model)
        for entry in () if colon else zoo.matching(model):
            if text and entry.card.texts is None:
                raise knows_no_texts(entry.card.name)
            if target is not None and (names := _known_classes(entry.card, text, dataset)):
                _class(target, list(names))
    if text:
        Prompts(tuple(text), (PLACE,))
        # As the encoders read them.
        read = [" ".join(one.lower().split()) for one in text]
        if twice := [one for place, one in enumerate(text) if read[place] in read[:place]]:
            raise RequestError(f"text {twice[0]!r} is given twice: leave one of them out")


def _known_classes(card: "Card", text: list[str] | None, dataset: str | None) -> Sequence[str] | None:
    from robustbench_bcos.data.opening import class_names, is_dataset

    if card.texts is not None:
        return text or card.texts.classes
    known = class_names(dataset or card.dataset) if dataset or is_dataset(card.dataset) else None
    return known if dataset else card.class_names or known


def _attacked(flags: Flags) -> bool:
    return "eps" in flags or "threat" in flags


def _attack_text(config: RunConfig) -> str:
    ((norm, eps), *_), (steps, *_) = config.threats, config.steps
    return f" · {norm} {eps}, {counted(steps, 'step')}"


def _class(asked: str, names: list[str]) -> int:
    if asked in names:
        return names.index(asked)
    if asked.isascii() and asked.isdigit() and int(asked) < len(names):
        return int(asked)
    from robustbench_bcos.core.registry import unknown

    raise unknown("class", asked, names)


def _cell(config: RunConfig, model: "Model", chosen: "Chosen") -> "Cell":
    from robustbench_bcos.bench.cells import make_cells
    from robustbench_bcos.bench.foreseen import check_radius

    check_radius(*config.threats[0], tuple(chosen.images.shape[1:]))
    return make_cells(config, [model.name])[0]


def _show(
    explained: "ExplainedGallery",
    names: list[str],
    *,
    class_names: list[str],
    out: Path,
    title: str,
    formats: tuple[str, ...],
    heads: list[str],
) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from robustbench_bcos.reports.gallery import write_gallery

    written = write_gallery(
        explained, names, class_names=class_names, folder=out, title=title, formats=formats, heads=heads
    )
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
    if explained.finding:
        errors.print(explained.finding, style="yellow", markup=False, highlight=False, soft_wrap=True)
    results.print(
        f"Written to {out}: {counted(len(written), 'file')}, maps.npz with all arrays", soft_wrap=True, markup=False
    )


def _show_moving(gallery: "Gallery", frames: "Frames", class_names: list[str], out: Path) -> None:
    from dataclasses import replace

    import torch

    from robustbench_bcos.core.disk import made
    from robustbench_bcos.explanations.stability import stability
    from robustbench_bcos.reports.gallery import write_maps, write_moving

    if not gallery.targets:
        # One class for all frames: maps of different classes are not comparable.
        with torch.no_grad():
            gallery = replace(gallery, targets=(int(gallery.model.classifier(frames.images).mean(dim=0).argmax()),))
    explained = gallery.explain()
    made(out)
    files = [write_moving(explained.pictures, frames, out), *write_maps(explained, out)]
    steady = stability(frames.images, torch.from_numpy(explained.arrays["contributions"]))
    results.print(f"{len(frames.images)} frames, class {class_names[gallery.targets[0]]}", markup=False)
    results.print(
        f"stability of maps {steady.maps:.3f}, of frames {steady.frames:.3f} (mean correlation of neighbours)"
    )
    results.print(f"Written to {out}: {', '.join(file.name for file in files)}", soft_wrap=True, markup=False)
