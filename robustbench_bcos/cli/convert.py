"""``convert``: a checkpoint of any layout becomes safetensors and a card."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_bcos.cli.options import Flags, takes
from robustbench_bcos.cli.output import results
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.data.opening import usual_size
from robustbench_bcos.model_zoo.checkpoints.container import container_of
from robustbench_bcos.model_zoo.registered import check_registered

if TYPE_CHECKING:
    from robustbench_bcos.model_zoo.checkpoints.convert import Converted

CHECKPOINT, CARD = "The checkpoint", "The card"

EXAMPLES = (
    "convert last.ckpt --architecture bcos_resnet56 --licence MIT --out mine",
    "convert last.ckpt --architecture bcos_resnet56 --argument b=1.5 --licence MIT --out mine",
)


@takes(
    *("architecture", "encoding", "argument", "ema", "plugin"),
    architecture={
        "help": "What it was made with: bcos_resnet56, ...; left out, those that fit are named.",
        "panel": CHECKPOINT,
    },
    encoding={"help": "What it takes: none, add_inverse, normalize:imagenet, ...", "panel": CHECKPOINT},
    argument={"help": "KEY=VALUE of the architecture that it leaves open: b=1.5, norm=batch.", "panel": CHECKPOINT},
    ema={"help": "Take the moving average of the weights.", "panel": CHECKPOINT},
)
def convert(
    flags: Flags,
    file: Annotated[Path, typer.Argument(help="Lightning, MadryLab, RobustBench, bare state dict, safetensors.")],
    licence: Annotated[str, typer.Option(help="Of the weights; 'unknown' where none is stated.", rich_help_panel=CARD)],
    out: Annotated[Path, typer.Option(help="Folder to write to; usable as --zoo.")],
    half: Annotated[bool, typer.Option("--half", help="Round to half precision; logits change a little.")] = False,
    name: Annotated[str | None, typer.Option(help="By default the file's.", rich_help_panel=CARD)] = None,
    dataset: Annotated[str, typer.Option(help="What it was trained on.", rich_help_panel=CARD)] = "unknown",
    image_size: Annotated[
        str | None,
        typer.Option(help="Pixels: 224, or 224x160; by default the dataset's.", rich_help_panel=CARD),
    ] = None,
    training: Annotated[
        str, typer.Option(help="natural, unknown, or 'adversarial linf 8/255'.", rich_help_panel=CARD)
    ] = "unknown",
    loss: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(TrainingLoss)}; by default bce for B-cos and ce for others.", rich_help_panel=CARD
        ),
    ] = None,
    reference: Annotated[str, typer.Option(help="Where it comes from.", rich_help_panel=CARD)] = "",
) -> None:
    """Make safetensors and a card of a checkpoint.

    Nothing in it is executed. What its tensors say is read from them and printed; the rest has to be stated.
    """
    size = usual_size(dataset) if image_size is None else parse_size(image_size)
    if size is None:
        raise RequestError("--image-size is needed, because checkpoints do not say it: 224, or 224x160, in pixels")
    container_of(file)
    if (architecture := flags.get("architecture")) is not None:
        check_registered(architecture, flags.get("argument", {}))
    # This imports torch; a mistake that can be told without it has been told.
    from robustbench_bcos.model_zoo.checkpoints.convert import CardFacts, convert

    converted = convert(
        file,
        architecture,
        out,
        CardFacts(image_size=size, licence=licence, dataset=dataset, training=training, loss=loss, reference=reference),
        name=name,
        encoding=flags.get("encoding"),
        arguments=flags.get("argument", {}),
        ema=flags.get("ema", False),
        half=half,
    )
    results.print(summary(file, converted), markup=False, soft_wrap=True)
    card = out / f"{converted.card.name}.toml"
    results.print(f"Written to {out}: {converted.card.weights.file}, {card.name}", markup=False, soft_wrap=True)
    results.print(f"Attack it: run --zoo {out} --model {converted.card.name}", markup=False, soft_wrap=True)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels: ``224``, or ``224x160``.

    Raises:
        RequestError: it is not that.
    """
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise RequestError(f"--image-size {text} must be height and width in pixels: 224, or 224x160")
    return int(parts[0]), int(parts[-1])


def summary(file: Path, converted: "Converted") -> str:
    """What was read from the file, in a few lines."""
    card, checkpoint = converted.card, converted.checkpoint
    arguments = ", ".join(f"{key}={value}" for key, value in card.arguments.items()) or "none"
    constants = "".join(f", {key} {list(value)}" for key, value in card.encoding.constants.items())
    prefix = f", names without {checkpoint.prefix!r}" if checkpoint.prefix else ""
    left_out = f", {checkpoint.left_out} others left out" if checkpoint.left_out else ""
    return "\n".join(
        (
            f"{file}: layout {checkpoint.kind}, {len(checkpoint.tensors)} tensors{prefix}{left_out}",
            f"architecture {card.architecture}, {card.classes} classes, arguments {arguments}",
            f"encoding {card.encoding.kind}{constants}; loss {card.loss}",
        )
    )
