"""The model and the images that a verb is asked about. Importing this imports torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.images import open_images, preprocessing_for
from robustbench_bcos.bench.preconditions import check_model, try_model
from robustbench_bcos.bench.request import find_sources
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.data.decoding import notes_of
from robustbench_bcos.data.grey import MADE_GREY, coloured, with_channels
from robustbench_bcos.data.image_files import Frames, is_moving, read_frames, read_images
from robustbench_bcos.data.opening import check_index, class_names, is_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.models import Model, ModelSource
from robustbench_bcos.reports.panels import telling


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Images to explain, and what is known of them."""

    images: Tensor
    names: list[str]
    indices: tuple[int, ...]
    class_names: list[str]
    heads: list[str]
    """Of the columns of a panel: names of files, or numbers of a dataset's images."""
    labels: Tensor | None = None
    frames: Frames | None = None
    """Where the images are one moving picture."""
    notes: tuple[str, ...] = ()
    """What was converted, a sentence each."""

    def for_each(self, texts: Sequence[str]) -> "Chosen":
        """Names and heads for a map of each text, of one image after the other."""
        short = telling(texts)
        return replace(
            self,
            names=[f"{name}-{text}" for name in self.names for text in texts],
            heads=[text if len(self.heads) == 1 else f"{head}: {text}" for head in self.heads for text in short],
        )


def only_source(config: RunConfig, verb: str) -> ModelSource:
    """The model that a verb is asked about.

    Raises:
        RequestError: it is not to be found, or there are several.
    """
    first, *others = find_sources(config)
    if others:
        names = ", ".join(source.name for source in (first, *others[:2]))
        raise RequestError(
            f"--model {config.model[0]} names {1 + len(others)} models ({names}, ...): {verb} one at a time"
        )
    return first


def from_dataset(opened: AbstractDataset, source: ModelSource, model: Model, asked: tuple[int, ...]) -> Chosen:
    """Images of a dataset by their indices, which must suit the model.

    Raises:
        RequestError: one of the images is not to be had, or the model does not fit them.
    """
    for index in asked:
        check_index(index, len(opened), opened.name)
    chosen = EvalSubset(opened, asked)
    names = source.texts or opened.class_names
    same = tuple(names) == opened.class_names
    check_model(model, chosen, device="cpu", space="image", classes=same)
    batch = chosen.batch(0, len(asked))
    return Chosen(
        images=batch.images,
        names=[f"image-{index}" for index in asked],
        indices=asked,
        class_names=list(names),
        heads=[f"image {index}" for index in asked],
        # Classes of the dataset are not texts that somebody made up.
        labels=batch.labels if same else None,
        notes=opened.notes,
    )


def subset_of(config: RunConfig, source: ModelSource, model: Model, verb: str, *, given: bool) -> EvalSubset:
    """Images of a dataset, or of the model's own where none is given, which must suit the model.

    Raises:
        RequestError: there are none, or they do not fit.
    """
    name = config.dataset if given else source.dataset
    if name is None or (not given and name not in DATASETS):
        raise RequestError(
            f"{verb} compares on real images, and model {source.name!r} does not say of which dataset: give image "
            "files, or --dataset NAME"
        )
    config = config.model_copy(update={"dataset": name})
    subset = EvalSubset.of(open_images(config, [source]), config.limit)
    check_model(model, subset, device="cpu", space="image")
    return subset


def from_files(
    config: RunConfig, source: ModelSource, model: Model, files: Sequence[Path], *, attacked: bool
) -> Chosen:
    """Image files, or the frames of one moving picture, resized and cropped as the options or the model's card say.

    Raises:
        RequestError: a file cannot be read, they are of several sizes, or the model fails on them.
    """
    preprocessing = preprocessing_for(config, [source])
    moving = [file for file in files if is_moving(file)]
    frames, conversions = None, Counter[str]()
    if not moving:
        images = read_images(files, model.image_size, preprocessing, conversions)
        names = [file.stem for file in files]
        if len(set(names)) < len(names):
            names = [head.replace("/", "-") for head in _told_apart(files)]
    else:
        if len(files) > 1:
            raise RequestError(f"{moving[0]} is a moving picture: explain it alone")
        if attacked:
            raise RequestError(f"{moving[0]} is a moving picture, which is not attacked: leave --eps out")
        frames = read_frames(moving[0], model.image_size, preprocessing, conversions)
        images, names = frames.images, [f"frame-{number}" for number in range(len(frames.images))]
    if config.channels == 1:
        conversions += Counter({MADE_GREY: coloured(images)})
    images = with_channels(images, config.channels or 3)
    frames = frames and frames._replace(images=images)
    return Chosen(
        images=images,
        names=names,
        indices=tuple(range(len(images))),
        class_names=_class_names(source, classes=try_model(model, images[:2], "cpu").shape[1]),
        heads=_told_apart(files),
        frames=frames,
        notes=notes_of(conversions),
    )


def _told_apart(files: Sequence[Path]) -> list[str]:
    """Names of files, each with as much of its folder as no other file shares."""
    paths = [file.resolve().parts for file in files]
    heads = []
    for path in paths:
        others = [other for other in paths if other != path]
        depths = (depth for depth in range(1, len(path)) if all(other[-depth:] != path[-depth:] for other in others))
        heads.append("/".join(path[-next(depths, len(path)) :]))
    return heads


def _class_names(source: ModelSource, *, classes: int) -> list[str]:
    """Those on the card, or of the dataset that the model is known to be for, or numbers."""
    of_dataset = class_names(source.dataset) if source.dataset is not None and is_dataset(source.dataset) else None
    stated = (source.texts or source.class_names, of_dataset)
    return list(next((names for names in stated if names and len(names) == classes), map(str, range(classes))))
