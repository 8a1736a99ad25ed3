"""Writing a B-cosified classifier: safetensors and a card, from which it is built again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w
import torch
from torch import Tensor

from robustbench_bcos.core.disk import made, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.core.tables import parse_table
from robustbench_bcos.model_zoo import ONNX
from robustbench_bcos.model_zoo.bcosify.bcosify import BcosifiedClassifier
from robustbench_bcos.model_zoo.bcosify.build import built_here
from robustbench_bcos.model_zoo.cards import Card, CleanAccuracy, TextsSpec, Zoo
from robustbench_bcos.model_zoo.checkpoints.load import encoding_spec
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.sources.model import Model
from robustbench_bcos.model_zoo.sources.zoo import ZooModel


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says beside how the network is built."""

    name: str
    dataset: str
    image_size: tuple[int, int]
    classes: int
    licence: str = "unknown"
    framing: Framing | None = None
    class_names: Sequence[str] | None = None
    texts: TextsSpec | None = None
    clean_accuracy: CleanAccuracy | None = None


def check_writable(model: Model, folder: Path, name: str) -> None:
    """Refuse what could not be built again from a card, and files that are there.

    Raises:
        RequestError: with the remedy.
    """
    prefix, colon, _ = _architecture(model).partition(":")
    if colon and prefix in (ONNX, "robustbench"):
        raise RequestError(
            f"a network of {model.name} cannot be built again from a card: convert it in Python, with "
            "robustbench_bcos.bcosify, or give module:callable"
        )
    for file in (folder / f"{name}.safetensors", folder / f"{name}.toml"):
        if file.exists():
            raise RequestError(f"{file} is there already: choose another --name or --out, or remove it")


def write_bcosified(
    classifier: BcosifiedClassifier, model: Model, folder: Path, facts: CardFacts, images: Tensor
) -> Card:
    """Write ``NAME.safetensors`` and ``NAME.toml``, and build the network again from them, unless that runs own code.

    Args:
        classifier: what to write.
        model: its source.
        folder: where to write; created if it does not exist.
        facts: for the card.
        images: some on which what was written must answer as the classifier does.

    Raises:
        RequestError: the folder is not writable, or the network built again answers differently.
    """
    made(folder)
    file = f"{facts.name}.safetensors"
    digest = write_weights(classifier.network, folder / file)
    framing = facts.framing
    values = {
        "name": facts.name,
        "family": "bcos",
        "architecture": _architecture(model),
        "arguments": dict(model.arguments),
        "dataset": facts.dataset,
        "classes": facts.classes,
        "image_size": facts.image_size,
        "resize": None if framing is None else framing.resize,
        "interpolation": "bilinear" if framing is None else framing.interpolation,
        "encoding": encoding_spec(classifier.encoding),
        "loss": model.trained_with,
        "training": {"kind": "unknown"},
        "bcosified": classifier.conversion.spec,
        "texts": facts.texts,
        "weights": {"file": file, "sha256": digest},
        "clean_accuracy": facts.clean_accuracy,
        "class_names": facts.class_names,
        "licence": facts.licence,
    }
    card = parse_table(Card, values, "the card")
    content = card.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_text(folder / f"{facts.name}.toml", tomli_w.dumps(content))
    if built_here(card.architecture):
        again = ZooModel(Zoo([folder])[facts.name]).load().classifier.to(images.device)
        with torch.no_grad():
            if not torch.equal(again(images), classifier(images)):
                raise RequestError(
                    f"the network built from card {facts.name} in {folder} answers differently from the converted one: "
                    "convert it in Python, and report this"
                )
    return card


def _architecture(model: Model) -> str:
    """How the source's network is built: a name of the registry or of a library, or the user's own callable."""
    named = ":" in model.architecture or ":" not in model.name
    return model.architecture if named else model.name
