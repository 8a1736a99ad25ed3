"""``bcosify``: a conventional classifier becomes a B-cos one, once it is known that nothing else changed."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.bench.config import IMAGES
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.cli.options import Flags, model_or_weights, takes
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.text import counted

if TYPE_CHECKING:
    from robustbench_bcos.model_zoo.bcosify.bcosify import Conversion

PROVED = 32
"""Images on which logits are compared, at most."""

EXAMPLES = (
    "bcosify digits-natural --out mine",
    "bcosify torchvision:resnet18 --dataset imagenet --data-dir DIR --limit 500 --out mine",
    "bcosify my_package.nets:make --encoding normalize:imagenet --dataset folder:DIR --out mine",
)


@takes(
    *("architecture", "encoding", "argument", "ema", "zoo"),
    *("dataset", "data_dir", "limit", "resize", "crop", "interpolation", "image_list"),
    *("classes", "templates", "plugin"),
    architecture={"help": "Where MODEL is a weights file: resnet56, torchvision:resnet50, ..."},
    encoding={"help": "Where MODEL is a weights file or has no card: none, normalize:imagenet, ..."},
    argument={"help": "KEY=VALUE of the architecture that a weights file leaves open: norm=batch."},
    ema={"help": "Take the moving average of a weights file, where it has one."},
    dataset={"help": "Prove and measure on images of this dataset: {names}.", "default": "the model's own"},
    limit={"help": "Use so many images of the dataset.", "default": "all"},
    image_list={"panel": IMAGES},
)
def bcosify(
    flags: Flags,
    model: Annotated[str, typer.Argument(help="Name as of `run --model`, or a weights file.")],
    out: Annotated[Path, typer.Option(help="Folder for weights and card; usable as --zoo, or as --model.")],
    b: Annotated[float, typer.Option("--b", help="Exponent of the B-cos layers.")] = 2.0,
    biases: Annotated[bool, typer.Option("--biases", help="Keep biases.")] = False,
    average_pools: Annotated[
        bool, typer.Option("--average-pools", help="Make pools of means of those of maxima, as published for ResNets.")
    ] = False,
    unpooled: Annotated[
        bool, typer.Option("--unpooled", help="Leave out the pool of attention of CLIP's ResNets: a feature a place.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the new model; by default bcosified- and the source's.")] = None,
) -> None:
    """Make a B-cos network of a conventional one.

    With B = 1 and all biases, it must give the source's logits on real images. Then biases are dropped and B is set,
    and the table shows what became of each layer. Fine-tuning is `train`'s.
    """
    if not b >= 1:
        raise RequestError(f"--b {b:g} must be at least 1: 2 as published, or 1 for linear layers")
    config = make_config(flags | model_or_weights(model, flags))
    from robustbench_bcos.bench.foreseen import check_foreseeable, check_models

    if "dataset" in flags:
        check_foreseeable(config, attacked=False)
    else:
        check_models(config)
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.bench.images import open_images
    from robustbench_bcos.cli.chosen import only_source, subset_of
    from robustbench_bcos.model_zoo.bcos.layers import WithB
    from robustbench_bcos.model_zoo.bcosify.bcosify import bcosify as convert
    from robustbench_bcos.model_zoo.bcosify.card import CardFacts, check_writable, write_bcosified
    from robustbench_bcos.model_zoo.sources.clip import ClipModel
    from robustbench_bcos.model_zoo.sources.zoo import ZooModel
    from robustbench_bcos.model_zoo.zero_shot import zero_shot_of
    from robustbench_bcos.training.workshop import clean_accuracy

    source = only_source(config, "bcosify")
    if "dataset" in flags:
        # Texts that nobody has stated are the names of the dataset's classes.
        source = source.for_classes(open_images(config, [source]).class_names)
    loaded = source.load()
    name = name or "bcosified-" + re.sub(r"[^A-Za-z0-9._-]+", "-", source.name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise RequestError(f"--name {name!r} must be letters and digits, after the first also '.', '_' and '-'")
    check_writable(loaded, out, name)
    subset = subset_of(config, source, loaded, "bcosify", given="dataset" in flags)
    images = subset.batch(0, min(PROVED, len(subset))).images
    classifier = convert(
        loaded.classifier,
        images=images,
        b=b,
        biases=biases,
        max_pools="averaged" if average_pools else "kept",
        unpooled=unpooled,
        name=source.name,
    )
    accuracies = {
        "the source": clean_accuracy(loaded.classifier, subset, "cpu"),
        f"with B = 1{'' if biases else ', without biases'}": clean_accuracy(WithB(classifier, 1.0), subset, "cpu"),
        f"with B = {b:g}": clean_accuracy(classifier, subset, "cpu"),
    }
    _print(classifier.conversion)
    of = f"{counted(len(subset), 'image')} of {subset.dataset.name}"
    for what, found in accuracies.items():
        results.print(f"accuracy on {of}, {what}: {found.correct / found.total:.1%}", markup=False, soft_wrap=True)
    card = write_bcosified(
        classifier,
        loaded,
        out,
        CardFacts(
            name=name,
            dataset=subset.dataset.name,
            image_size=(images.shape[2], images.shape[3]),
            classes=len(subset.class_names),
            licence=source.entry.card.licence if isinstance(source, ZooModel) else "unknown",
            framing=source.framing,
            class_names=source.class_names or source.texts,
            texts=source.spec_of(zero_shot_of(classifier)) if isinstance(source, ClipModel) else None,
            clean_accuracy=accuracies[f"with B = {b:g}"] if config.limit is None else None,
        ),
        images[:2],
    )
    results.print(f"Written to {out}: {card.weights.file}, {name}.toml", markup=False, soft_wrap=True)
    results.print(f"Explain it: explain --model {out} --images 0", markup=False, soft_wrap=True)


def _print(conversion: "Conversion") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("layer", "was", "is", "dropped", "residual")
    for layer in conversion.layers:
        share = f"{layer.residual:+.2%}" if layer.residual else ""
        became = layer.became or ("" if layer.source else "a constant")
        table.add_row(*map(Text, (layer.path, layer.source, became, ", ".join(layer.dropped), share)))
    results.print(table)
    proof = conversion.proof
    results.print(
        f"With B = 1 and all biases, logits are the source's on {proof.images} images: up to {proof.difference:.1e} of "
        f"the largest in double precision, {proof.rounding:.1e} in single precision.",
        markup=False,
        soft_wrap=True,
    )
    residual = sum(layer.residual for layer in conversion.layers)
    results.print(
        f"Contributions of the image are {1 - residual:.2%} of the largest logit without its bias, constants the rest, "
        f"up to {conversion.remainder:.1e}.",
        markup=False,
        soft_wrap=True,
    )
    if conversion.vanishes:
        results.print(
            f"With B = {conversion.spec.b:g} a largest logit is {conversion.faintest:.1e}, which single precision does "
            "not hold: its map is empty, and there is no gradient to train with. Start nearer to 1, with --b 1.25, "
            "say, or let B grow in a recipe (scheduled_b).",
            markup=False,
            soft_wrap=True,
        )
