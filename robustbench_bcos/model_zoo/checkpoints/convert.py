"""Converting a checkpoint of any layout to safetensors and a card for ``--zoo``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
import torch

from robustbench_bcos.core.disk import made, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import parse_table
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES
from robustbench_bcos.model_zoo.cards import Card
from robustbench_bcos.model_zoo.checkpoints.kind import Stated
from robustbench_bcos.model_zoo.checkpoints.layouts import Checkpoint
from robustbench_bcos.model_zoo.checkpoints.load import LoadedCheckpoint, architecture_needed, load_checkpoint
from robustbench_bcos.model_zoo.checkpoints.write import write_weights

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern of a model's name."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Entries of a card that a checkpoint does not contain."""

    image_size: tuple[int, int]
    """Height and width in pixels."""
    licence: str
    dataset: str = "unknown"
    training: str = "unknown"
    """``natural``, ``unknown``, or as in ``adversarial l2 0.5``."""
    loss: str | None = None
    """By default the architecture's: ``bce`` for B-cos networks and ``ce`` for others."""
    reference: str = ""


class Converted(NamedTuple):
    """The card that was written, and the checkpoint it was made from."""

    card: Card
    checkpoint: Checkpoint


def convert(
    file: Path,
    architecture: str | None,
    folder: Path,
    facts: CardFacts,
    *,
    name: str | None = None,
    encoding: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    ema: bool = False,
    half: bool = False,
) -> Converted:
    """Write ``NAME.safetensors`` and ``NAME.toml``.

    Args:
        file: the checkpoint.
        architecture: name of its architecture.
        folder: where to write; created if it does not exist.
        facts: entries of the card.
        name: of the model; by default the file's.
        encoding: as on the command line, if the file does not determine it.
        arguments: of the architecture, if the tensors do not determine them.
        ema: take the moving average of the weights.
        half: round the weights to half precision, which makes the file half as large.

    Raises:
        RequestError: the checkpoint or the facts do not fit, or files of that name exist already.
    """
    name = _name(name, file)
    weights, card_file = folder / f"{name}.safetensors", folder / f"{name}.toml"
    for written in (weights, card_file):
        if written.exists():
            raise RequestError(f"{written} is there already: choose another --name or --out, or remove it")
    architecture, encoding, arguments = Stated(architecture, encoding, arguments or {}).completed_by(file)
    if architecture is None:
        raise architecture_needed(file, ema=ema)
    restored = load_checkpoint(file, architecture, encoding=encoding, arguments=arguments, ema=ema)
    # Check the card without the digest first, so that nothing is written if the card is invalid.
    _card(name, architecture, restored, facts, {"file": weights.name, "sha256": 64 * "0"})
    if half:
        _check_half(file, restored.checkpoint)
    made(folder)
    digest = write_weights(restored.classifier.network, weights, half=half)
    card = _card(name, architecture, restored, facts, {"file": weights.name, "sha256": digest})
    content = card.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_text(card_file, tomli_w.dumps(content))
    return Converted(card, restored.checkpoint)


def _name(stated: str | None, file: Path) -> str:
    name = stated or re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem)
    if not re.fullmatch(NAME, name):
        raise RequestError(f"--name {name!r} must be letters and digits, after the first also '.', '_' and '-'")
    return name


def _card(
    name: str, architecture: str, restored: LoadedCheckpoint, facts: CardFacts, weights: Mapping[str, str]
) -> Card:
    known = ARCHITECTURES[architecture]
    values = {
        "name": name,
        "family": known.family,
        "architecture": architecture,
        "arguments": dict(restored.arguments),
        "dataset": facts.dataset,
        "classes": restored.classes,
        "image_size": facts.image_size,
        "encoding": restored.encoding,
        "loss": facts.loss or known.loss,
        "training": parse_training(facts.training),
        "weights": weights,
        "reference": facts.reference,
        "licence": facts.licence,
    }
    return parse_table(Card, values, "the card")


def parse_training(text: str) -> dict[str, str]:
    """``natural``, ``unknown``, or ``adversarial NORM EPS``, as a card has it.

    Raises:
        RequestError: it is none of these.
    """
    parts = text.split()
    if parts in (["natural"], ["unknown"]):
        return {"kind": parts[0]}
    if len(parts) == 3 and parts[0] == "adversarial":
        return dict(zip(("kind", "norm", "eps"), parts, strict=True))
    raise RequestError(f"--training {text!r} must be natural, unknown, or like 'adversarial linf 8/255'")


def _check_half(file: Path, checkpoint: Checkpoint) -> None:
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not tensor.half().isfinite().all():
            raise RequestError(
                f"weights {file}: tensor {name!r} holds {float(tensor.abs().max()):g}, and half precision ends at "
                f"{torch.finfo(torch.half).max:g}: leave --half out"
            )
