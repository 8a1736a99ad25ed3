"""Finding and loading models: of the zoo, of a weights file, of a library, of your own code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo import CLIP, LIBRARIES, ONNX
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.checkpoints.kind import Stated
from robustbench_bcos.model_zoo.checkpoints.load import architecture_needed
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.sources.checkpoint import CheckpointModel
from robustbench_bcos.model_zoo.sources.clip import ClipCheckpoint, ClipModel
from robustbench_bcos.model_zoo.sources.imported import ImportedModel
from robustbench_bcos.model_zoo.sources.library import LibraryCheckpoint, LibraryModel, library_of
from robustbench_bcos.model_zoo.sources.model import LoadedModel, Model, ModelSource, own_model, state_digest
from robustbench_bcos.model_zoo.sources.onnx import OnnxModel
from robustbench_bcos.model_zoo.sources.robustbench import RobustBenchModel
from robustbench_bcos.model_zoo.sources.zoo import ZooModel

__all__ = [
    "CheckpointModel",
    "ImportedModel",
    "LibraryCheckpoint",
    "LibraryModel",
    "LoadedModel",
    "Model",
    "ModelSource",
    "RobustBenchModel",
    "ZooModel",
    "find_models",
    "find_weights",
    "list_models",
    "load_model",
    "own_model",
    "state_digest",
]


def find_models(
    pattern: str, zoo: Zoo, encoding: str | None = None, templates: str | Sequence[str] | None = None
) -> list[ModelSource]:
    """Sources for one ``--model``: a name, a glob over the zoo, or ``PREFIX:NAME``.

    The prefix is ``torchvision``, ``timm``, ``robustbench``, ``clip``, ``onnx`` (a file follows), or any other module.

    Args:
        pattern: as on the command line.
        zoo: the cards.
        encoding: stated for a model that has no card, as on the command line.
        templates: of texts, where those are a model's classes; by default the card's, or the plain one.

    Raises:
        RequestError: there is no such model, or its card has an encoding already.
    """
    prefix, colon, name = pattern.partition(":")
    chosen = _fixed(templates)
    if prefix == "robustbench" and colon:
        return [RobustBenchModel(name, encoding)]
    if prefix == ONNX and colon:
        return [OnnxModel(Path(name), encoding)]
    if prefix == CLIP and colon:
        return [ClipModel(name, chosen, encoding)]
    if prefix in LIBRARIES and colon:
        return [LibraryModel(library_of(prefix), name, encoding)]
    if colon:
        return [ImportedModel(pattern, encoding)]
    found = [ZooModel(entry, chosen) for entry in zoo.matching(pattern)]
    if encoding is not None:
        raise RequestError(
            f"--encoding {encoding} describes models without a card, and {found[0].name!r} has one: leave it out"
        )
    return [*found]


def find_weights(
    file: Path,
    architecture: str | None,
    *,
    encoding: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    ema: bool = False,
    templates: str | Sequence[str] | None = None,
) -> ModelSource:
    """The source for ``--weights`` and ``--architecture``, which is registered here, or a library's ``PREFIX:NAME``.

    With ``clip:NAME`` the file is of a B-cosified image tower, which is compared with texts in these templates.

    What is not given is as the header of a file that ``export`` has written says.

    Raises:
        RequestError: the library is not installed, or no architecture is given.
    """
    architecture, encoding, arguments = Stated(architecture, encoding, arguments or {}).completed_by(file)
    if architecture is None:
        raise architecture_needed(file, ema=ema)
    prefix, colon, name = architecture.partition(":")
    described: dict[str, Any] = {"file": file, "encoding": encoding, "arguments": arguments or {}, "ema": ema}
    if prefix == CLIP and colon:
        chosen = _fixed(templates)
        return ClipCheckpoint(name, chosen, encoding, file=file, arguments=arguments, ema=ema)
    if prefix in LIBRARIES and prefix != "robustbench" and colon:
        return LibraryCheckpoint(library=library_of(prefix), requested=name, **described)
    return CheckpointModel(architecture=architecture, **described)


def _fixed(templates: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    return templates if templates is None or isinstance(templates, str) else tuple(templates)


def list_models(pattern: str = "*", *, zoo: Path | None = None) -> list[str]:
    """Names of the zoo's models that match a glob, in order, whether or not their weights have been fetched.

    Args:
        pattern: such as ``digits-*``.
        zoo: a folder with further cards.
    """
    return Zoo([zoo] if zoo else []).names(pattern)


def load_model(
    name_or_path: str | Path,
    *,
    architecture: str | None = None,
    encoding: str | None = None,
    zoo: Path | None = None,
    ema: bool = False,
    classes: Sequence[str] = (),
    templates: str | Sequence[str] | None = None,
    **arguments: Any,  # noqa: ANN401 (an architecture's own arguments)
) -> nn.Module:
    """A frozen classifier from images in [0, 1] to logits.

    Args:
        name_or_path: a zoo name, ``torchvision:NAME``, ``timm:NAME``, ``robustbench:ID``, ``module:callable``, or a
            weights file.
        architecture: architecture of a weights file, unless ``export`` has written it.
        encoding: of a model without a card: ``none``, ``add_inverse``, ``normalize:imagenet``, or with constants
            ``normalize:0.485,0.456,0.406/0.229,0.224,0.225``.
        zoo: a folder with further cards.
        ema: take the moving average of the weights in a file.
        classes: what images are compared with by a vision-language model; its outputs in this order.
        templates: that these names are put into: ``plain``, ``openai``, a file, or several with one ``{}`` each; by
            default those of the model's card, or ``plain``.
        arguments: of the architecture, if a weights file does not determine them, such as ``b`` and ``norm``.

    Raises:
        RequestError: there is no such model, or its weights are missing or do not fit.
    """
    if architecture is not None or Path(name_or_path).is_file():
        source = find_weights(
            Path(name_or_path), architecture, encoding=encoding, arguments=arguments, ema=ema, templates=templates
        )
        return _remembering(source.for_classes(classes).load())
    if arguments:
        raise RequestError(
            f"arguments ({', '.join(arguments)}) go with a weights file and its architecture: model {name_or_path!r} "
            "has its own"
        )
    found = find_models(str(name_or_path), Zoo([zoo] if zoo else []), encoding, templates)
    if len(found) > 1:
        raise RequestError(f"{name_or_path!r} names {len(found)} models: load one at a time")
    return found[0].for_classes(classes).load().classifier


def _remembering(model: Model) -> nn.Module:
    """The classifier with what was assumed of it, for the row of an evaluation."""
    if isinstance(model.classifier, ImageClassifier):
        model.classifier.assumed, model.classifier.alternatives = model.assumed, model.alternatives
    return model.classifier
