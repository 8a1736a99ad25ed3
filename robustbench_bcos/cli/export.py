"""``export``: a model becomes a file for other programs, once it is known to answer as the model does."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.config import IMAGES, RunConfig, make_config
from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.exporting import FORMATS

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_bcos.model_zoo.models import Model, ModelSource

COMPARED = 8
"""Images that the exported network is compared on, where nothing else is asked for."""

EXAMPLES = (
    "export digits-bcos-b2 --format onnx",
    "export last.ckpt --architecture bcos_resnet20 --format torchscript cat.png dog.png",
)


@takes(
    *("architecture", "encoding", "argument", "ema", "zoo"),
    *("dataset", "data_dir", "limit", "resize", "crop", "interpolation", "image_list", "plugin"),
    architecture={"help": "Where MODEL is a weights file: bcos_resnet56, torchvision:resnet50, ..."},
    encoding={"help": "Where MODEL is a weights file or has no card: none, add_inverse, normalize:imagenet, ..."},
    argument={"help": "KEY=VALUE of the architecture that a weights file leaves open: b=1.5, norm=batch."},
    ema={"help": "Take the moving average of a weights file, where it has one."},
    dataset={"help": "Compare on images of this dataset: {names}.", "default": "the model's own"},
    limit={"help": "Compare on so many images of the dataset.", "default": str(COMPARED)},
    image_list={"panel": IMAGES},
)
def export(
    flags: Flags,
    model: Annotated[str, typer.Argument(help="Name as of `run --model`, or a weights file.")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Images to compare on, instead of a dataset's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; by default the model's name.")] = None,
) -> None:
    """Write a model to a file for other programs.

    The exported network is read back and must give the model's logits on real images, in batches of several sizes.
    Nothing is written where it does not.
    """
    if files and "dataset" in flags:
        raise RequestError("--dataset and image files are two sources of images: give one of them")
    from_file = "architecture" in flags or Path(model).is_file()
    config = make_config(flags | ({"weights": Path(model)} if from_file else {"model": (model,)}))
    FORMATS[form].check()
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.cli.chosen import from_files, only_source
    from robustbench_bcos.model_zoo.exporting.export import export

    source = only_source(config, "export")
    loaded = source.load()
    if files:
        images, of = from_files(config, source, loaded, files, attacked=False).images, "files"
    else:
        images, of = _of_dataset(flags, config, source, loaded)
    file = out or Path(re.sub(r"[^A-Za-z0-9._-]+", "-", source.name) + FORMATS[form].suffix)
    found = export(loaded, form, file, images)
    *sizes, largest = map(str, found.batch_sizes)
    results.print(
        f"{source.name} as {form} gives the model's logits, up to {found.difference:.1e} of their range, on "
        f"{len(images)} images of {of}, their mirror images and their negatives, in batches of {', '.join(sizes)} and "
        f"{largest}",
        markup=False,
        soft_wrap=True,
    )
    shape = ", ".join(map(str, images.shape[1:]))
    results.print(
        f"Written to {file}: {FORMATS[form].contents}; images in [0, 1] of shape (any, {shape}), logits of "
        f"{found.classes} classes",
        markup=False,
        soft_wrap=True,
    )


def _of_dataset(flags: Flags, config: RunConfig, source: "ModelSource", model: "Model") -> tuple["Tensor", str]:
    """Images of a dataset, which must suit the model, and the dataset's name."""
    from robustbench_bcos.bench.images import open_images
    from robustbench_bcos.bench.preconditions import check_model
    from robustbench_bcos.data import DATASETS
    from robustbench_bcos.data.subset import EvalSubset

    name = config.dataset if "dataset" in flags else source.dataset
    if name is None or ("dataset" not in flags and name not in DATASETS):
        raise RequestError(
            f"export compares on real images, and model {source.name!r} does not say of which dataset: give image "
            "files, or --dataset NAME"
        )
    config = config.model_copy(update={"dataset": name})
    subset = EvalSubset.of(open_images(config, [source]), config.limit)
    check_model(model, subset, device="cpu", space="image")
    return subset.batch(0, config.limit or COMPARED).images, subset.dataset.name
