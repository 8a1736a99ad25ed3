"""``export``: a model becomes a file for other programs, once it is known to answer as the model does."""

import re
from pathlib import Path
from typing import Annotated

import typer

from robustbench_bcos.bench.config import IMAGES
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.cli.options import Flags, model_or_weights, takes
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.text import counted
from robustbench_bcos.model_zoo.exporting import FORMATS

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
    config = make_config(flags | model_or_weights(model, flags))
    FORMATS[form].check()
    from robustbench_bcos.bench.foreseen import check_foreseeable, check_models
    from robustbench_bcos.data.decoding import check_picture

    if "dataset" in flags:
        check_foreseeable(config, attacked=False)
    else:
        check_models(config)
    for file in files or []:
        check_picture(file)
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.cli.chosen import from_files, only_source, subset_of
    from robustbench_bcos.model_zoo.exporting.export import export

    source = only_source(config, "export")
    loaded = source.load()
    if files:
        images, of = from_files(config, source, loaded, files, attacked=False).images, "files"
    else:
        subset = subset_of(config, source, loaded, "export", given="dataset" in flags)
        images, of = subset.batch(0, config.limit or COMPARED).images, subset.dataset.name
    written = out or Path(re.sub(r"[^A-Za-z0-9._-]+", "-", source.name) + FORMATS[form].suffix)
    found = export(loaded, form, written, images)
    *sizes, largest = map(str, found.batch_sizes)
    results.print(
        f"{source.name} as {form} gives the model's logits, up to {found.difference:.1e} of their range, on "
        f"{counted(len(images), 'image')} of {of}, their mirror images, their negatives and darker ones, in batches of "
        f"{', '.join(sizes)} and {largest}",
        markup=False,
        soft_wrap=True,
    )
    if found.one_path:
        results.print(
            f"Its code decides by values or shapes ({found.one_path}), and the file holds the way that it took with "
            "these images alone: compare on images that take the other one",
            markup=False,
            soft_wrap=True,
        )
    shape = ", ".join(map(str, images.shape[1:]))
    results.print(
        f"Written to {written}: {FORMATS[form].contents}; images in [0, 1] of shape (any, {shape}), logits of "
        f"{found.classes} classes",
        markup=False,
        soft_wrap=True,
    )
